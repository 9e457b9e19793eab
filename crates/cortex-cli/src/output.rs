//! The only module that prints. Results go to stdout, messages for people to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use clap::builder::StyledStr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::args::{Format, GlobalOptions};
use crate::error::{CliError, Exit, Kind};
use crate::escape::escape;
use crate::render;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const NOTE: Style = Style::new().bold();

/// Prints results and messages as the global options say.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    color: ColorChoice,
    quiet: bool,
    stdout: io::Stdout,
}

impl Output {
    pub(crate) fn new(global: &GlobalOptions) -> Self {
        Self {
            format: global.output,
            color: global.color,
            quiet: global.quiet,
            stdout: io::stdout(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn is_json(&self) -> bool {
        match self.format {
            Format::Json | Format::Jsonl => true,
            Format::Table | Format::Name => false,
        }
    }

    /// Whether the command may print colours to stdout.
    pub(crate) fn is_stdout_styled(&self) -> bool {
        self.allows_style(AutoStream::choice(&self.stdout))
    }

    fn is_stderr_styled(&self) -> bool {
        self.allows_style(AutoStream::choice(&io::stderr()))
    }

    /// `detected` is what the stream and the environment (such as `NO_COLOR`) allow.
    fn allows_style(&self, detected: anstream::ColorChoice) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => detected != anstream::ColorChoice::Never,
        }
    }

    /// Prints a result and flushes stdout. The text ends with a line break, unless it is empty.
    pub(crate) fn print(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = self.stdout.lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|error| {
            let is_broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
            let kind = if is_broken_pipe { Kind::BrokenPipe } else { Kind::Failure };
            CliError::new(kind, format!("cannot write to stdout: {error}"))
        })
    }

    /// Whether the reader of stdout has closed its end, so that the command can stop.
    pub(crate) fn is_stdout_closed(&self) -> bool {
        // `poll` reports ERR and HUP also when no event is requested.
        let mut stdout = [PollFd::new(&self.stdout, PollFlags::empty())];
        let polled = poll(&mut stdout, Some(&Timespec::default()));
        polled.is_ok() && stdout[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Prints a value as JSON: on several lines for `json`, on one line for `jsonl`.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.print(&(render::json(value, self.format == Format::Json)? + "\n"))
    }

    /// Prints a message that is neither a result nor an error.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.print_message(NOTE, "note", text);
        }
    }

    /// Prints a suggestion what to do next.
    pub(crate) fn hint(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.print_message(HINT, "hint", text);
        }
    }

    /// Prints why the command failed, and returns the exit code.
    pub(crate) fn report_error(&self, error: &CliError) -> Exit {
        if error.kind() == Kind::BrokenPipe {
            return error.kind().exit();
        }
        match render::json(&error.report(), false) {
            Ok(json) if self.is_json() => write_stderr(&(json + "\n")),
            Ok(_) | Err(_) => {
                self.print_message(ERROR, "error", error.message());
                if let Some(hint) = error.hint() {
                    self.print_message(HINT, "hint", hint);
                }
            }
        }
        error.kind().exit()
    }

    /// Prints clap's message about a wrong command line.
    pub(crate) fn report_usage_error(&self, text: &StyledStr) -> Exit {
        let text = if self.is_stderr_styled() { text.ansi().to_string() } else { text.to_string() };
        write_stderr(&text);
        Exit::Usage
    }

    /// Logs the client library's events to stderr from now on.
    pub(crate) fn log_to_stderr(&self) {
        let ansi = self.is_stderr_styled() && io::stderr().is_terminal();
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(io::stderr)
            .with_ansi(ansi);
        // It fails only if a subscriber is already set.
        log.try_init().unwrap_or_default();
    }

    fn print_message(&self, style: Style, label: &str, text: &str) {
        let text = escape(text);
        write_stderr(&if self.is_stderr_styled() {
            format!("{style}{label}:{style:#} {text}\n")
        } else {
            format!("{label}: {text}\n")
        });
    }
}

/// Ignores errors: if stderr fails, the command has no other place for a message.
fn write_stderr(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).unwrap_or_default();
}
