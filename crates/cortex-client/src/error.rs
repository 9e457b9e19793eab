//! The errors of the client's calls.

use std::io;
use std::time::Duration;

use cortex_proto::{
    AddressError, DecodeError, DiscoveryStatus, RequestedCommand, TopicFilterError,
};
use thiserror::Error;

/// The result of a client's call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed, and whether the daemon may have changed something nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// No topic of this name is registered. The daemon has changed nothing.
    #[error("no such topic: {topic}")]
    NoSuchTopic {
        /// The requested name.
        topic: String,
    },

    /// Another node has registered the topic. The daemon has changed nothing.
    #[error("topic {topic} is already registered by {}", node.as_deref().unwrap_or("another node"))]
    AlreadyRegistered {
        /// The topic of the request.
        topic: String,
        /// The node that owns the topic, when the daemon's message names it.
        node: Option<String>,
        /// The daemon's message.
        message: String,
    },

    /// No answer came in time: no daemon is running, or it is slow, or the answer was lost. The
    /// daemon **may have carried out** a register, unregister or shutdown; other requests change
    /// nothing.
    #[error(
        "no daemon answered within {} ms at {address}{}", waited.as_millis(), because(cause.as_ref())
    )]
    NoAnswer {
        /// The daemon's address.
        address: String,
        /// The time of all attempts together.
        waited: Duration,
        /// The number of attempts; 0 with a timeout of zero, when the client sends nothing.
        attempts: u32,
        /// Why the client could not connect, when that is the reason.
        cause: Option<ConnectError>,
    },

    /// The client cannot connect to the daemon, and does not go on trying, because it was built
    /// with [`fail_fast`](crate::DiscoveryClientBuilder::fail_fast). When the daemon ended during
    /// the call, it **may have carried out** a register or unregister; other requests change
    /// nothing.
    #[error("no daemon is reachable at {address}: {cause}")]
    Unreachable {
        /// The daemon's address.
        address: String,
        /// The reason.
        cause: ConnectError,
    },

    /// The connection to the daemon was lost. A [shutdown](crate::DiscoveryClient::shutdown) ends
    /// with it, since a second request could end the next daemon: the daemon **may have carried
    /// out** the first one. A watch reports it as its [`trouble`](crate::Watch::trouble).
    #[error("lost the connection to the daemon at {address}")]
    Disconnected {
        /// The daemon's address.
        address: String,
    },

    /// The daemon answers, but no publisher registered the topic in time. The daemon has changed
    /// nothing.
    #[error("topic {topic} did not appear within {} ms", waited.as_millis())]
    WaitTimedOut {
        /// The missing topic.
        topic: String,
        /// The time of the whole wait.
        waited: Duration,
    },

    /// The answer does not follow the protocol. The daemon **may have carried out** a register,
    /// unregister or shutdown.
    #[error("the daemon's answer could not be read: {0}")]
    Unreadable(UnreadableReply),

    /// The daemon refused the request or could not carry it out. It has changed nothing.
    #[error("the daemon answered with an error: {message}")]
    Refused {
        /// The daemon's message.
        message: String,
    },

    /// The daemon does not know this request: it speaks only the legacy protocol. It has changed
    /// nothing.
    #[error("the daemon does not know {request}: it speaks no extensions of the protocol")]
    Unsupported {
        /// The command of the request.
        request: RequestedCommand,
    },

    /// The filter is not a valid pattern of topic names. The client has sent nothing.
    #[error("{filter:?} is not a pattern: {reason}")]
    InvalidFilter {
        /// The filter as the caller gave it.
        filter: String,
        /// Why it is not valid.
        reason: TopicFilterError,
    },

    /// This is not the address of a daemon. The client has sent nothing.
    #[error("invalid address {address:?}: {reason}")]
    InvalidAddress {
        /// The address as the caller gave it.
        address: String,
        /// What is wrong with it.
        reason: AddressError,
    },

    /// A later advertisement of the same client has taken over the topic.
    #[error("a later advertisement replaced this one of topic {topic}")]
    Replaced {
        /// The topic of both advertisements.
        topic: String,
    },

    /// Another process has registered the topic of this advertisement. The advertisement waits
    /// until that process has unregistered the topic or has ended.
    #[error("another process of node {node} has taken over topic {topic}")]
    Superseded {
        /// The topic.
        topic: String,
        /// The node of the other process.
        node: String,
    },

    /// The client's thread could not start.
    #[error("the client's thread cannot start: {reason}")]
    Thread {
        /// The system's reason.
        reason: io::ErrorKind,
    },

    /// The client cannot make a socket. The client has not sent the request.
    #[error("the client cannot make a socket: {reason}")]
    Transport {
        /// The reason, for example that the process has too few free descriptors.
        reason: SocketError,
    },

    /// The client is closed, or its thread has ended after a panic. The daemon **may have carried
    /// out** a register, unregister or shutdown in progress.
    #[error("the client is closed")]
    Closed,

    /// This process is a fork of the one that made the client. The client's thread and connection
    /// belong to the parent: make a new client.
    #[error("the client belongs to the parent of this forked process; make a new client")]
    Forked,

    /// A callback or a waker that runs on the client's own thread made a blocking call, which would
    /// wait for itself.
    #[error("a callback on the client's own thread cannot make a blocking call")]
    OnClientThread,
}

/// Why the client cannot connect to a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The socket file does not exist.
    #[error("the socket does not exist")]
    NoSocket,
    /// No process listens at the socket file or port.
    #[error("no process listens there")]
    Refused,
    /// This user has no permission to connect.
    #[error("this user has no permission to connect")]
    PermissionDenied,
    /// The system cannot resolve the host name.
    #[error("the host name {name} cannot be resolved: {reason}")]
    HostName {
        /// The host name.
        name: String,
        /// The resolver's reason.
        reason: String,
    },
    /// The host does not answer.
    #[error("the host does not answer")]
    TimedOut,
    /// Any other reason.
    #[error("{reason}")]
    Other {
        /// The system's reason.
        reason: String,
    },
}

impl From<io::Error> for ConnectError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds without a variant of their own")]
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NoSocket,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Other { reason: error.to_string() },
        }
    }
}

/// Why the client cannot make a socket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The process, or the system, has no descriptors left.
    #[error(
        "the process has too few free file descriptors: close some, or raise the limit (ulimit -n)"
    )]
    Descriptors,
    /// Any other reason.
    #[error("{reason}")]
    Other {
        /// The reason of the system or of `ZeroMQ`.
        reason: String,
    },
}

fn because(cause: Option<&ConnectError>) -> String {
    cause.map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl From<UnreadableReply> for Error {
    fn from(reason: UnreadableReply) -> Self {
        Self::Unreadable(reason)
    }
}

/// Why the client could not use a daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnreadableReply {
    /// The body is not a response of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The answer does not consist of exactly one part.
    #[error("it has {count} parts instead of one")]
    Parts {
        /// The number of parts.
        count: usize,
    },
    /// No daemon answers this request with such a status.
    #[error("status {status} is no answer to this request")]
    Status {
        /// The status of the answer.
        status: DiscoveryStatus,
    },
    /// The answer to a lookup is OK but has no topic.
    #[error("it says OK but holds no topic")]
    NoTopicInfo,
    /// The answer is about another topic than the requested one.
    #[error("it is about another topic, {found}")]
    OtherTopic {
        /// The topic in the answer.
        found: String,
    },
    /// The answer does not have exactly one entry per topic.
    #[error("it has {entries} entries for {topics} topics")]
    Entries {
        /// The number of topics in the answer.
        topics: usize,
        /// The number of entries in the answer.
        entries: usize,
    },
    /// The answer to a watch has no epoch or no revision.
    #[error("it has no epoch or no revision")]
    NoRevision,
}
