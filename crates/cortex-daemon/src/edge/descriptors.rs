//! The process's descriptors: how many there may be, and one kept in reserve.

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the daemon needs for itself: standard streams, the poll, listeners, locks,
/// the stop pipe and the reserve, and some for what a library opens for a moment.
const OWN: u64 = 32;

/// Raises the soft limit of open descriptors to the hard one, as far as the system lets it.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open descriptors stays as it is");
        }
    }
}

/// How many connections the descriptor limit has room for.
pub(crate) fn room_for_connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(OWN).max(OWN / 4)).unwrap_or(usize::MAX)
}

/// A descriptor to give up when none is left, so that a connection can be taken and closed rather
/// than wait at the door for ever.
#[derive(Debug)]
pub(super) struct Reserve(Option<File>);

impl Reserve {
    pub(super) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Takes a descriptor again, if there was none to take the last time. False: there is none.
    pub(super) fn refill(&mut self) -> bool {
        if self.0.is_none() {
            *self = Self::new();
        }
        self.0.is_some()
    }

    /// Runs `action` with one descriptor more than there would be. What it opens must be closed
    /// when it is done.
    pub(super) fn lend<T>(&mut self, action: impl FnOnce() -> T) -> T {
        self.0 = None;
        let result = action();
        self.refill();
        result
    }
}
