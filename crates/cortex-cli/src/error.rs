//! The error of a command: its kind, message, hint and exit code.

use serde::Serialize;

/// The exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The command succeeded. An empty list and a closed stdout are successes too.
    Success = 0,
    /// The daemon answered with an error, or another failure happened.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon listens at the address, or no answer came in time.
    Unreachable = 3,
    /// The topic is not registered.
    NoSuchTopic = 4,
    /// Another node has registered the topic.
    AlreadyExists = 5,
    /// The answer of the daemon is unreadable.
    Unreadable = 6,
    /// `topic wait` timed out.
    WaitTimedOut = 124,
}

impl Exit {
    pub(crate) fn code(self) -> i32 {
        i32::from(self as u8)
    }
}

/// The kind of an error, as programs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Usage,
    NoDaemon,
    NoAnswer,
    NoSuchTopic,
    AlreadyRegistered,
    Refused,
    Unreadable,
    WaitTimedOut,
    StillRunning,
    Failure,
    /// The reader of stdout closed it, as `head` does. This is a success without a message.
    BrokenPipe,
}

impl Kind {
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Usage => Exit::Usage,
            Self::NoDaemon | Self::NoAnswer => Exit::Unreachable,
            Self::NoSuchTopic => Exit::NoSuchTopic,
            Self::AlreadyRegistered => Exit::AlreadyExists,
            Self::Refused | Self::StillRunning | Self::Failure => Exit::Failure,
            Self::Unreadable => Exit::Unreadable,
            Self::WaitTimedOut => Exit::WaitTimedOut,
            Self::BrokenPipe => Exit::Success,
        }
    }

    /// The value of `kind` in a JSON error.
    fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NoDaemon => "no_daemon",
            Self::NoAnswer => "no_answer",
            Self::NoSuchTopic => "no_such_topic",
            Self::AlreadyRegistered => "already_registered",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::WaitTimedOut => "wait_timed_out",
            Self::StillRunning => "still_running",
            Self::Failure => "failure",
            Self::BrokenPipe => "broken_pipe",
        }
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Adds a hint what the user can do.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The error as a value for JSON output.
    pub(crate) fn report(&self) -> ErrorReport<'_> {
        ErrorReport {
            error: ErrorFields {
                kind: self.kind.as_str(),
                message: &self.message,
                hint: self.hint.as_deref(),
                exit: self.kind.exit().code(),
            },
        }
    }
}

/// The JSON object of an error.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport<'a> {
    error: ErrorFields<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorFields<'a> {
    kind: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
    exit: i32,
}
