//! Signals, for the binary: a library leaves them to its process.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::stop::StopHandle;

/// Lets SIGINT and SIGTERM stop a daemon.
///
/// # Errors
/// When the process has no descriptor left for it, or the system refuses a handler.
pub fn stop_on_signals(handle: &StopHandle) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, handle.pipe()?)?;
    }
    Ok(())
}
