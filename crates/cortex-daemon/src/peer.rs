//! The peers of the daemon: connections, users and processes.

use crate::zmtp::Envelope;

/// The number of a connection. It is never used again, so a late reply cannot reach another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub usize);

/// Where the reply to a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    /// The connection.
    pub connection: ConnectionId,
    /// The frames with which the reply starts.
    pub envelope: Envelope,
}

/// The user and the process of a peer, as far as the kernel reports them. Over TCP it reports
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The user; `None` when unknown.
    pub uid: Option<u32>,
    /// The process; `None` when unknown.
    pub process: Option<Process>,
    /// Whether the peer is in the daemon's network namespace: then its loopback addresses are the
    /// daemon's.
    pub is_local: bool,
}

/// What listens at an endpoint: evidence that the same publisher serves it as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointListener {
    /// The process that made a Unix socket listen.
    Process(Process),
    /// The inode of a listening TCP socket in the daemon's network namespace.
    Socket(u64),
}

/// A process of this boot and of the daemon's pid namespace. The kernel uses a pid again some day,
/// but not together with the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The start time, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}
