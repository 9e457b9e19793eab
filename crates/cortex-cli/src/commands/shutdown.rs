//! `cortex shutdown`

use std::thread;
use std::time::{Duration, Instant};

use cortex_client::Error;
use serde::Serialize;

use crate::address::{Address, Target};
use crate::args::{Format, ShutdownArgs};
use crate::commands::Session;
use crate::error::{CliError, Kind};
use crate::escape::visible;
use crate::preflight::{self, Reachability};

/// The time between two looks at an address that is to become silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The outcome as JSON shows it.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    address: &'a str,
    /// `stopping` when the daemon agreed, `stopped` when nobody listens any more.
    state: &'a str,
}

pub(crate) fn run(session: &Session<'_>, args: &ShutdownArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let address = session.address.as_str();
    if args.wait && *session.address.target() == Target::Name {
        return Err(CliError::new(Kind::Usage, "--wait needs the host's number, not its name")
            .hint("write the address as tcp://127.0.0.1:5550, or leave out --wait"));
    }

    let state = match session.connect()?.shutdown() {
        Ok(()) if args.wait => {
            wait_until_silent(session, started)?;
            "stopped"
        }
        Ok(()) => "stopping",
        // A daemon can end so fast that its answer is lost.
        Err(Error::NoAnswer { .. }) if is_silent(&session.address, LOOK_INTERVAL) => "stopped",
        Err(error) => return Err(session.explain(&error)),
    };
    match session.output.format() {
        Format::Table | Format::Name => {
            session.output.data(&format!("the daemon at {} is {state}\n", visible(address)))
        }
        Format::Json | Format::Jsonl => session.output.json(&Outcome { address, state }),
    }
}

fn wait_until_silent(session: &Session<'_>, started: Instant) -> Result<(), CliError> {
    loop {
        let left = session.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            let within = humantime::format_duration(session.timeout);
            let message = format!(
                "{} still listens {within} after it agreed to end",
                session.address.as_str()
            );
            return Err(CliError::new(Kind::StillRunning, message)
                .hint("allow more time with --timeout; or a supervisor has started it again"));
        }
        if is_silent(&session.address, left) {
            return Ok(());
        }
        thread::sleep(LOOK_INTERVAL.min(left));
    }
}

fn is_silent(address: &Address, within: Duration) -> bool {
    matches!(preflight::try_connect(address, within), Reachability::Missing | Reachability::Refused)
}
