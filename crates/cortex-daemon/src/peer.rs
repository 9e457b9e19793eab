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
