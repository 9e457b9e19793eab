//! The process's descriptors: how many there may be, and one kept in reserve.

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the daemon needs for itself: standard streams, the poll, listeners, locks,
/// the stop pipe and the reserve, and some for what a library opens for a moment.
const DAEMON_DESCRIPTORS: usize = 32;

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

/// How the descriptors that there may be are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorBudget {
    pub(crate) connections: usize,
    /// Processes that are watched; a process usually has a connection as well.
    pub(crate) processes: usize,
    /// Endpoints that are looked at at once.
    pub(crate) probes: usize,
}

impl DescriptorBudget {
    /// `max_connections` bounds the connections further.
    pub(crate) fn new(max_connections: Option<usize>) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self::of(limit).limited_to(max_connections)
    }

    fn of(limit: usize) -> Self {
        let free = limit.saturating_sub(DAEMON_DESCRIPTORS).max(DAEMON_DESCRIPTORS / 2);
        let probes = (free / 8).min(64);
        let processes = free / 4;
        Self { connections: free - probes - processes, processes, probes }
    }

    fn limited_to(self, connections: Option<usize>) -> Self {
        let connections = connections.unwrap_or(self.connections).min(self.connections);
        Self { connections, ..self }
    }
}

/// A descriptor to give up when none is left, so that a connection can be taken and closed rather
/// than wait at the door for ever.
#[derive(Debug)]
pub(super) struct ReserveDescriptor(Option<File>);

impl ReserveDescriptor {
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
    pub(super) fn with_free_descriptor<T>(&mut self, action: impl FnOnce() -> T) -> T {
        self.0 = None;
        let result = action();
        self.refill();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_limit() {
        for limit in [0, 10, 32, 48, 64, 1024, 4096, 1 << 20] {
            let DescriptorBudget { connections, processes, probes } = DescriptorBudget::of(limit);
            assert!(connections > processes && processes >= probes && probes > 0, "{limit}");
            assert!(
                connections + processes + probes + DAEMON_DESCRIPTORS
                    <= limit.max(DAEMON_DESCRIPTORS + DAEMON_DESCRIPTORS / 2),
                "{limit}"
            );
        }
    }
}
