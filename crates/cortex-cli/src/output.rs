//! The only place that prints. Results go to stdout, everything for people to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use clap::builder::StyledStr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::args::{Format, Global};
use crate::error::{CliError, Exit, Kind};
use crate::escape::visible;
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
    pub(crate) fn new(global: &Global) -> Self {
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
    pub(crate) fn stdout_styled(&self) -> bool {
        self.styled(AutoStream::choice(&self.stdout))
    }

    fn stderr_styled(&self) -> bool {
        self.styled(AutoStream::choice(&io::stderr()))
    }

    /// `found` is what the stream and the environment (`NO_COLOR` and its kin) allow.
    fn styled(&self, found: anstream::ColorChoice) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => found != anstream::ColorChoice::Never,
        }
    }

    /// Prints a result, which ends with a line break unless it is empty, at once.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = self.stdout.lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|error| {
            let broken = error.kind() == io::ErrorKind::BrokenPipe;
            let kind = if broken { Kind::BrokenPipe } else { Kind::Failure };
            CliError::new(kind, format!("stdout cannot be written: {error}"))
        })
    }

    /// Whether nobody can read what is printed any more: then there is no need to go on.
    pub(crate) fn is_unread(&self) -> bool {
        // No event is asked for: that the other end is gone is told all the same.
        let mut stdout = [PollFd::new(&self.stdout, PollFlags::empty())];
        let looked = poll(&mut stdout, Some(&Timespec::default()));
        looked.is_ok() && stdout[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Prints a value as JSON: over several lines under `json`, on one under `jsonl`.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.data(&(render::json(value, self.format == Format::Json)? + "\n"))
    }

    /// Says something that is neither a result nor an error.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.say(NOTE, "note", text);
        }
    }

    /// Says something that helps.
    pub(crate) fn hint(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.say(HINT, "hint", text);
        }
    }

    /// Says why the command failed, and gives the exit code.
    pub(crate) fn fail(&self, error: &CliError) -> Exit {
        if error.kind() == Kind::BrokenPipe {
            return error.kind().exit();
        }
        match render::json(&error.report(), false) {
            Ok(json) if self.is_json() => to_stderr(&(json + "\n")),
            Ok(_) | Err(_) => {
                self.say(ERROR, "error", error.message());
                if let Some(hint) = error.hint_text() {
                    self.say(HINT, "hint", hint);
                }
            }
        }
        error.kind().exit()
    }

    /// Says what is wrong with the command line, in clap's own words.
    pub(crate) fn usage(&self, text: &StyledStr) -> Exit {
        let text = if self.stderr_styled() { text.ansi().to_string() } else { text.to_string() };
        to_stderr(&text);
        Exit::Usage
    }

    /// From now on the library's events are told as well.
    pub(crate) fn log_to_stderr(&self) {
        let ansi = self.stderr_styled() && io::stderr().is_terminal();
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(io::stderr)
            .with_ansi(ansi);
        // Fails only where there is a subscriber already.
        log.try_init().unwrap_or_default();
    }

    fn say(&self, style: Style, label: &str, text: &str) {
        let text = visible(text);
        to_stderr(&if self.stderr_styled() {
            format!("{style}{label}:{style:#} {text}\n")
        } else {
            format!("{label}: {text}\n")
        });
    }
}

/// A stderr that cannot be written leaves nobody to tell it to.
fn to_stderr(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).unwrap_or_default();
}
