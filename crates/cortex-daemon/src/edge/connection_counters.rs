//! What the daemon counts about connections.

/// Counters since the start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionCounters {
    /// Accepted connections.
    pub(crate) accepted: u64,
    /// Connections that were closed at once, because there were too many.
    pub(crate) refused: u64,
    /// Protocol violations, and connections that left too many replies unread.
    pub(crate) violations: u64,
    /// Messages without a delimiter or a body.
    pub(crate) dropped: u64,
    /// Requests that the daemon has read.
    pub(crate) requests: u64,
}
