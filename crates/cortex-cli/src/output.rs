//! The only place that prints. Results go to stdout, everything for people to stderr.

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

/// How and where results and messages are printed.
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

    /// Whether stdout takes colours.
    pub(crate) fn is_stdout_styled(&self) -> bool {
        self.allows_style(AutoStream::choice(&self.stdout))
    }

    fn is_stderr_styled(&self) -> bool {
        self.allows_style(AutoStream::choice(&io::stderr()))
    }

    /// `detected` is what the stream and the environment (`NO_COLOR` and its kin) allow.
    fn allows_style(&self, detected: anstream::ColorChoice) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => detected != anstream::ColorChoice::Never,
        }
    }

    /// Prints a result, which ends with a line break unless it is empty, at once.
    pub(crate) fn print(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = self.stdout.lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|error| {
            let is_broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
            let kind = if is_broken_pipe { Kind::BrokenPipe } else { Kind::Failure };
            CliError::new(kind, format!("cannot write to stdout: {error}"))
        })
    }

    /// Whether nobody can read what is printed any more: then there is no need to go on.
    pub(crate) fn is_stdout_closed(&self) -> bool {
        // No event is asked for: that the other end is gone is told all the same.
        let mut stdout = [PollFd::new(&self.stdout, PollFlags::empty())];
        let polled = poll(&mut stdout, Some(&Timespec::default()));
        polled.is_ok() && stdout[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Prints a value as JSON: over several lines under `json`, on one under `jsonl`.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.print(&(render::json(value, self.format == Format::Json)? + "\n"))
    }

    /// Says something that is neither a result nor an error.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.print_message(NOTE, "note", text);
        }
    }

    /// Says something that helps.
    pub(crate) fn hint(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.print_message(HINT, "hint", text);
        }
    }

    /// Says why the command failed, and gives the exit code.
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

    /// Says what is wrong with the command line, in clap's own words.
    pub(crate) fn report_usage_error(&self, text: &StyledStr) -> Exit {
        let text = if self.is_stderr_styled() { text.ansi().to_string() } else { text.to_string() };
        write_stderr(&text);
        Exit::Usage
    }

    /// From now on the library's events are told as well.
    pub(crate) fn log_to_stderr(&self) {
        let ansi = self.is_stderr_styled() && io::stderr().is_terminal();
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(io::stderr)
            .with_ansi(ansi);
        // Fails only where there is a subscriber already.
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

/// A stderr that cannot be written leaves nobody to tell it to.
fn write_stderr(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).unwrap_or_default();
}
