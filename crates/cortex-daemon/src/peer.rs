//! Who asked, and how the answer finds its way back.

use crate::zmtp::Envelope;

/// A connection's number. It is never used again, so that a late reply cannot reach another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub usize);

/// Where a request came from and its reply goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    /// The connection.
    pub connection: ConnectionId,
    /// The frames that the reply starts with.
    pub envelope: Envelope,
}

/// Who a peer is, as far as the system tells. Over TCP it tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// Its user.
    pub uid: Option<u32>,
    /// Its process.
    pub process: Option<Process>,
}

/// A process of this boot and of the daemon's pid namespace. A pid alone comes back some day; with
/// the time at which its process started it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}
