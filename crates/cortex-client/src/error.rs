//! The errors of the client's calls.

use std::io;
use std::time::Duration;

use cortex_proto::{DecodeError, DiscoveryStatus, RequestedCommand, TopicFilterError};
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
    #[error("no daemon answered within {} ms at {address}", waited.as_millis())]
    NoAnswer {
        /// The daemon's address.
        address: String,
        /// The time of all attempts together.
        waited: Duration,
        /// The number of attempts.
        attempts: u32,
    },

    /// The connection to the daemon was lost, and no daemon has answered since. A watch reports
    /// this as its [`trouble`](crate::Watch::trouble); no call ends with it.
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
    Unreadable(#[from] UnreadableReply),

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
    #[error("{filter:?} is not a pattern: {source}")]
    InvalidFilter {
        /// The filter as the caller gave it.
        filter: String,
        /// Why it is not valid.
        source: TopicFilterError,
    },

    /// ZeroMQ cannot connect to an address of this form. The client has sent nothing.
    #[error("invalid address {address}: {source}")]
    InvalidAddress {
        /// The address as the caller gave it.
        address: String,
        /// `ZeroMQ`'s reason.
        source: zmq::Error,
    },

    /// A later advertisement of the same client has taken over the topic.
    #[error("a later advertisement replaced this one of topic {topic}")]
    Replaced {
        /// The topic of both advertisements.
        topic: String,
    },

    /// The thread that advertises topics could not start, or has died.
    #[error("the thread that advertises topics is not running: {reason}")]
    Thread {
        /// The system's reason.
        reason: io::ErrorKind,
    },

    /// The client's socket failed, for example because the process has no descriptors left. The
    /// daemon **may have carried out** a register, unregister or shutdown.
    #[error("the connection to {address} failed: {source}")]
    Transport {
        /// The daemon's address.
        address: String,
        /// `ZeroMQ`'s reason.
        source: zmq::Error,
    },

    /// The asynchronous client has no runtime: it was made outside one, or its runtime has ended.
    /// The daemon **may have carried out** a register, unregister or shutdown in progress.
    #[cfg(feature = "tokio")]
    #[error("the asynchronous client has no tokio runtime, or its runtime has ended")]
    NoRuntime,
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
