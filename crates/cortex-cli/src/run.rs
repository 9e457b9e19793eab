//! Parses the arguments, runs the command and returns the exit code.

use std::ffi::OsString;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::address::choose_address;
use crate::args::{self, Cli, Command, GlobalOptions, TopicCommand};
use crate::commands::{CommandContext, list, lookup, ping, shutdown, wait, watch};
use crate::error::{CliError, Exit, Kind};
use crate::output::Output;

/// Runs one command and prints its results and errors.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    match Cli::try_parse_from(&args) {
        Ok(cli) => {
            let output = Output::new(&cli.global);
            match execute(cli.command, &cli.global, &output) {
                Ok(()) => Exit::Success,
                Err(error) => output.report_error(&error),
            }
        }
        Err(error) => handle_clap_error(&error, &Output::new(&args::parse_output_flags(&args))),
    }
}

fn execute(command: Command, global: &GlobalOptions, output: &Output) -> Result<(), CliError> {
    if global.verbose {
        output.log_to_stderr();
    }
    let from_environment = std::env::var_os(args::ADDRESS_VARIABLE);
    let address = choose_address(global.address.as_deref(), from_environment.as_deref())?;
    let timeout = global.timeout.unwrap_or(command.default_timeout());
    let context = CommandContext { address, timeout, output };
    match command {
        Command::Topic { command: TopicCommand::List(args) } | Command::List(args) => {
            list::run(&context, &args)
        }
        Command::Topic { command: TopicCommand::Lookup(args) } | Command::Lookup(args) => {
            lookup::run(&context, &args)
        }
        Command::Topic { command: TopicCommand::Wait(args) } | Command::Wait(args) => {
            wait::run(&context, &args)
        }
        Command::Topic { command: TopicCommand::Watch(args) } | Command::Watch(args) => {
            watch::run(&context, &args, global.timeout)
        }
        Command::Ping(args) => ping::run(&context, &args),
        Command::Shutdown(args) => shutdown::run(&context, &args),
    }
}

/// Prints help and version to stdout, and all other clap errors to stderr.
fn handle_clap_error(error: &clap::Error, output: &Output) -> Exit {
    let text = error.render();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let text =
            if output.is_stdout_styled() { text.ansi().to_string() } else { text.to_string() };
        return match output.print(&text) {
            Ok(()) => Exit::Success,
            Err(error) => output.report_error(&error),
        };
    }
    if output.is_json() {
        output.report_error(&usage_error(error))
    } else {
        output.report_usage_error(&text)
    }
}

/// Converts an error of clap. The first paragraph of clap's text is the message.
fn usage_error(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.split_whitespace().collect();
    let message = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        "a command is missing".to_owned()
    } else {
        words.join(" ").trim_start_matches("error: ").to_owned()
    };
    CliError::new(Kind::Usage, message).with_hint("`cortex --help` shows the commands and options")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_errors_become_one_line() {
        for (args, message) in [
            (&["cortex", "nonsense"][..], "unrecognized subcommand 'nonsense'"),
            (&["cortex", "topic"], "a command is missing"),
            (&["cortex", "lookup"], "the following required arguments were not provided: <NAME>"),
            (
                &["cortex", "ping", "--timeout", "2"],
                "invalid value '2' for '--timeout <DURATION>': a unit is missing: write 500ms or 2s",
            ),
        ] {
            let error = Cli::try_parse_from(args).unwrap_err();
            assert_eq!(usage_error(&error).message(), message);
        }
    }
}
