//! Runs the command line as a shell would.

use std::process::Command;

use crate::binaries;
use crate::process::{Process, ProcessOutput};

/// The command `cortex`, without the environment variables that change its output.
#[must_use]
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::cli());
    command
        .args(arguments)
        .env_remove("CORTEX_DISCOVERY_ADDRESS")
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .env_remove("COLUMNS");
    command
}

/// Runs `cortex` and waits until it exits.
#[must_use]
pub fn run(arguments: &[&str]) -> ProcessOutput {
    Process::spawn_captured(&mut command(arguments)).wait()
}

/// Runs `cortex -a ADDRESS …` and waits until it exits. The timeout is long unless the arguments
/// set another.
#[must_use]
pub fn run_at(address: &str, arguments: &[&str]) -> ProcessOutput {
    let has_deadline = arguments.iter().any(|argument| argument.starts_with("--timeout"));
    let deadline = if has_deadline { &[][..] } else { &["--timeout", "30s"] };
    run(&[&["-a", address], deadline, arguments].concat())
}
