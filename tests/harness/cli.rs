//! The command line, as a shell would run it.

use std::process::Command;

use crate::binaries;
use crate::process::{Process, ProcessOutput};

/// The command `cortex`, with nothing of this shell's environment that would change its answers.
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

/// Runs `cortex` to its end.
#[must_use]
pub fn run(arguments: &[&str]) -> ProcessOutput {
    Process::spawn_captured(&mut command(arguments)).wait()
}

/// Runs `cortex -a ADDRESS …` to its end, with a wide deadline unless the arguments have one.
#[must_use]
pub fn run_at(address: &str, arguments: &[&str]) -> ProcessOutput {
    let has_deadline = arguments.iter().any(|argument| argument.starts_with("--timeout"));
    let deadline = if has_deadline { &[][..] } else { &["--timeout", "30s"] };
    run(&[&["-a", address], deadline, arguments].concat())
}
