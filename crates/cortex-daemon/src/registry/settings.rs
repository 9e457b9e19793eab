//! What a registry gets at its start.

use std::time::Duration;

use super::directory::access::Access;

/// Bounds for what peers can make the registry keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most topics.
    pub topics: usize,
    /// The most bytes of each text of a topic but its name, which
    /// [`TopicName`](cortex_proto::TopicName) bounds.
    pub field_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { topics: 100_000, field_bytes: 1024 }
    }
}

/// What a registry gets at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds for what peers can make it keep.
    pub limits: Limits,
    /// Which user may change or stop what.
    pub access: Access,
    /// The pause between two probes of an endpoint.
    pub probe_interval: Duration,
    /// How long the daemon keeps a topic whose endpoint it cannot reach; `None`: for ever.
    pub unreachable_after: Option<Duration>,
    /// The daemon's name and version, for hello.
    pub server: String,
    /// The daemon's pid, for hello.
    pub pid: u32,
    /// The most events of the history.
    pub history: usize,
}
