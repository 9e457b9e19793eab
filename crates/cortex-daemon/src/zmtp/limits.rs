//! Limits on the messages of a peer and on its unsent replies, in bytes.

/// The longest request body that the daemon reads.
pub const MAX_BODY: usize = 64 * 1024;
/// The longest request body that the daemon answers, with an ERROR if it is longer than
/// [`MAX_BODY`]. A longer one ends the connection.
pub const MAX_REFUSED_BODY: usize = 1024 * 1024;
/// The longest envelope: all frames before the delimiter, with their headers. A longer one ends the
/// connection.
pub const MAX_ENVELOPE: usize = 64 * 1024;
/// The longest command. A longer one ends the connection.
pub const MAX_COMMAND: usize = 8 * 1024;
/// The daemon reads no more requests of a peer with this many unsent bytes, until the peer reads.
pub const MAX_UNSENT: usize = 1024 * 1024;
