//! The process's file descriptors: their limit, their budget and a reserve.

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The daemon's own descriptors: standard streams, the poll, listeners, locks, the stop pipe, the
/// reserve, and some for files that a library opens for a moment.
const DAEMON_DESCRIPTORS: usize = 32;

/// Raises the soft limit of open descriptors to the hard limit. Logs a warning if the system
/// refuses.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open descriptors");
        }
    }
}

/// How many descriptors each use gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorBudget {
    pub(crate) connections: usize,
    /// For pidfds of watched processes. A process usually has a connection as well.
    pub(crate) processes: usize,
    /// For probes that run at the same time.
    pub(crate) probes: usize,
}

impl DescriptorBudget {
    /// The budget under the process's limit. `max_connections` may lower the number of connections.
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

/// A descriptor that the daemon frees when no other is left. With it the daemon accepts and closes
/// a connection, which would otherwise wait for ever.
#[derive(Debug)]
pub(super) struct ReserveDescriptor(Option<File>);

impl ReserveDescriptor {
    pub(super) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Opens the descriptor again if it is missing. False: the process has no free descriptor.
    pub(super) fn refill(&mut self) -> bool {
        if self.0.is_none() {
            *self = Self::new();
        }
        self.0.is_some()
    }

    /// Runs `action` while the reserve is closed. `action` must close every descriptor that it
    /// opens.
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
