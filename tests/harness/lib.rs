//! The harness of the end-to-end tests: real daemons, real peers, and waits with deadlines.
//!
//! Each test runs the project's own binaries ([`binaries`]) in new processes ([`daemon`], [`cli`],
//! [`python`]) and keeps every socket in its own temporary directory ([`test_dir`]). No test waits
//! by sleeping: it waits for a condition with a [`deadline`].

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
pub mod network;
pub mod process;
pub mod publisher_host;
pub mod python;
pub mod raw_peer;
pub mod scripted_daemon;
pub mod slow_disk;
pub mod test_dir;
pub mod transcript;
pub mod zmq_peer;

/// Reports that a test cannot run here. The test runner does not capture this output.
pub fn report_skipped(reason: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // A closed standard error must not fail the test.
    let _ = writeln!(io::stderr(), "not run: {name}: {reason}");
}

/// Reports a measured figure. The test runner does not capture this output.
pub fn report_measurement(figure: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // A closed standard error must not fail the test.
    let _ = writeln!(io::stderr(), "measured: {name}: {figure}");
}

/// Compiles the Rust examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct ReadmeExamples;
