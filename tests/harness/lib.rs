//! What the end-to-end tests stand on: real daemons, real peers and honest waiting.
//!
//! Each test runs the project's own binaries ([`binaries`]) in processes of its own ([`daemon`],
//! [`cli`], [`python`]), with every socket in a temporary directory of its own. Nothing here
//! pauses and hopes: whoever waits, waits for a condition with a [`deadline`].

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::io::{self, Write as _};

pub mod binaries;
pub mod cli;
pub mod clients;
pub mod conformance;
pub mod daemon;
pub mod deadline;
pub mod descriptors;
pub mod hex;
pub mod messages;
pub mod process;
pub mod publisher_host;
pub mod python;
pub mod raw_peer;
pub mod scripted_daemon;
pub mod test_dir;
pub mod transcript;
pub mod zmq_peer;

/// Says that a test cannot run here, and why, where the test runner does not swallow it.
pub fn report_skipped(reason: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // Nothing is lost when nobody listens.
    let _ = writeln!(io::stderr(), "not run: {name}: {reason}");
}

/// Tells a measured figure, where the test runner does not swallow it.
pub fn report_measurement(figure: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // Nothing is lost when nobody listens.
    let _ = writeln!(io::stderr(), "measured: {name}: {figure}");
}
