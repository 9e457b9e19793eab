//! What a peer may send, and what may wait to be sent to it.

/// The longest body that is served, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// The longest body that still gets an answer (an ERROR), in bytes; a longer one ends the
/// connection.
pub const MAX_REFUSED_BODY: usize = 1024 * 1024;
/// The most bytes of all frames before the delimiter, headers included; more end the connection.
pub const MAX_ENVELOPE: usize = 64 * 1024;
/// The longest command, in bytes; a longer one ends the connection.
pub const MAX_COMMAND: usize = 8 * 1024;
/// A peer with more unsent bytes than this is not listened to until it reads.
pub const MAX_UNSENT: usize = 1024 * 1024;
