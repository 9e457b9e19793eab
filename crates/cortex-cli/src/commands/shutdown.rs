//! `cortex shutdown`

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cortex_client::{Address, ConnectTarget, Error};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use serde::Serialize;

use crate::args::{Format, ShutdownArgs};
use crate::commands::CommandContext;
use crate::error::{CliError, Kind};
use crate::escape::escape;
use crate::preflight::{self, Reachability};

/// The time between two checks whether the daemon has stopped listening.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The JSON object of a shutdown.
#[derive(Debug, Serialize)]
struct ShutdownRecord<'a> {
    address: &'a str,
    /// `stopping` if the daemon agreed, `stopped` if another daemon can start there.
    state: &'a str,
}

pub(crate) fn run(context: &CommandContext<'_>, args: &ShutdownArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let address = context.address.as_str();
    if args.wait && matches!(context.address.target(), ConnectTarget::HostName { .. }) {
        return Err(CliError::new(
            Kind::Usage,
            "--wait needs an IP address instead of a host name",
        )
        .with_hint("write the address like tcp://127.0.0.1:5550, or omit --wait"));
    }

    let state = match context.connect()?.shutdown() {
        Ok(()) if args.wait => {
            wait_until_stopped(context, started)?;
            "stopped"
        }
        Ok(()) => "stopping",
        // A daemon can stop so fast that its answer is lost.
        Err(Error::NoAnswer { .. } | Error::Disconnected { .. })
            if is_stopped(&context.address, POLL_INTERVAL) =>
        {
            "stopped"
        }
        Err(error) => return Err(context.cli_error(&error)),
    };
    match context.output.format() {
        Format::Table | Format::Name => {
            context.output.print(&format!("the daemon at {} is {state}\n", escape(address)))
        }
        Format::Json | Format::Jsonl => {
            context.output.print_json(&ShutdownRecord { address, state })
        }
    }
}

fn wait_until_stopped(context: &CommandContext<'_>, started: Instant) -> Result<(), CliError> {
    loop {
        let left = context.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            let within = humantime::format_duration(context.timeout);
            let message = format!(
                "the daemon at {} agreed to stop, but has not ended after {within}",
                context.address.as_str()
            );
            return Err(CliError::new(Kind::StillRunning, message).with_hint(
                "allow more time with --timeout, or check whether a supervisor restarts the daemon",
            ));
        }
        if is_stopped(&context.address, left) {
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL.min(left));
    }
}

/// Whether another daemon can start at the address.
fn is_stopped(address: &Address, timeout: Duration) -> bool {
    let reachability = preflight::try_connect(address, timeout);
    if let (Reachability::Refused, ConnectTarget::Path(path)) = (&reachability, address.target()) {
        // A daemon removes its socket file last. One that was killed leaves the file.
        return !is_locked(path);
    }
    matches!(reachability, Reachability::Missing | Reachability::Refused)
}

/// Whether a daemon has locked the path of a socket. A lock file that this user cannot open counts
/// as locked.
fn is_locked(socket: &Path) -> bool {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match open(Path::new(&path), flags, Mode::empty()) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
        Err(errno) => errno != Errno::NOENT,
    }
}
