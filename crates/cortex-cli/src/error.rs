//! What a command says when it fails: a kind, a sentence, what to do, and the exit code.

use serde::Serialize;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; an empty list is done as well, and so is a reader that has seen enough.
    Success = 0,
    /// The daemon answered with an error, or another failure.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon was reached, or there was no answer in time.
    Unreachable = 3,
    /// There is no such topic.
    NoSuchTopic = 4,
    /// Another node has the topic.
    AlreadyExists = 5,
    /// The answer could not be read.
    Unreadable = 6,
    /// The thing that was waited for did not come.
    WaitTimedOut = 124,
}

impl Exit {
    pub(crate) fn code(self) -> i32 {
        i32::from(self as u8)
    }
}

/// What went wrong, as programs tell it apart.
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
    /// The reader of our output went away, as `head` does. Nobody is told, and it is no failure.
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

    /// The word in JSON errors.
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

    /// Adds what to do about it.
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

    /// The error as programs read it.
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

/// An error's JSON.
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
