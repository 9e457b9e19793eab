//! Signal handlers. The binary installs them; the library leaves signals to its program.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::stop::StopHandle;

/// Makes signals stop the daemon of this handle: SIGTERM always, SIGINT and SIGHUP unless the
/// process has inherited that they are ignored, as under `nohup`.
///
/// A write beyond the limit of a file's size does not end the process any more: it fails instead,
/// as on a full disk. The Rust runtime does the same for SIGPIPE.
///
/// # Errors
/// When the process has no free descriptor, or the system refuses a handler.
pub fn stop_on_signals(handle: &StopHandle) -> io::Result<()> {
    // A handler without an effect: to ignore a signal needs unsafe code.
    flag::register(SIGXFSZ, Arc::default())?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        if signal == SIGTERM || !is_ignored(signal, &status) {
            pipe::register(signal, handle.pipe()?)?;
        }
    }
    // The process may have inherited that they are blocked.
    let stop_signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    Ok(SigSet::from_iter(stop_signals).thread_unblock()?)
}

/// Whether a process ignores a signal, according to its `/proc/PID/status`.
fn is_ignored(signal: c_int, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t03\n";
        assert!(is_ignored(SIGHUP, status));
        assert!(!is_ignored(SIGINT, status) && !is_ignored(SIGTERM, status));
        assert!(!is_ignored(SIGHUP, "") && !is_ignored(SIGHUP, "SigIgn:\tx\n"));
    }
}
