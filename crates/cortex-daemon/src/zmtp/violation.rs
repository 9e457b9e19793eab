//! Protocol violations: the reasons for which the daemon closes a connection.

use thiserror::Error;

/// Why the daemon closes a connection. The log line is "closed a peer's connection" with this text
/// in the field `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// The first bytes are not a ZMTP signature.
    #[error("it does not speak ZMTP")]
    NotZmtp,
    /// A ZMTP version before 3.
    #[error("it speaks ZMTP {0}; this daemon speaks 3")]
    OldVersion(u8),
    /// A security mechanism other than NULL.
    #[error("it wants the security mechanism {0:?}; this daemon has only NULL")]
    Mechanism(String),
    /// A first command other than READY, an unreadable command, or a handshake that takes too long.
    #[error("its handshake is malformed: {0}")]
    Handshake(&'static str),
    /// A socket type that does not send requests.
    #[error("it is a {0:?} socket; this daemon answers REQ and DEALER")]
    SocketType(String),
    /// Flag bits without a meaning, or a command in several frames.
    #[error("a frame has the flags {0:#04x}, which mean nothing")]
    FrameFlags(u8),
    /// A command of more than [`MAX_COMMAND`](super::MAX_COMMAND) bytes.
    #[error("a command of {0} bytes is too long")]
    CommandTooLong(u64),
    /// More than [`MAX_ENVELOPE`](super::MAX_ENVELOPE) bytes before the delimiter.
    #[error("the frames before the delimiter are too long")]
    EnvelopeTooLong,
    /// A request of more than [`MAX_REFUSED_BODY`](super::MAX_REFUSED_BODY) bytes.
    #[error("a request of {0} bytes is too long to be answered")]
    RequestTooLong(u64),
    /// All peers together leave too many bytes of replies unread, and this peer leaves most of
    /// them.
    #[error("it leaves {0} bytes of replies unread")]
    TooMuchUnread(usize),
    /// The peer has sent an ERROR command.
    #[error("it reported an error: {0:?}")]
    PeerError(String),
}
