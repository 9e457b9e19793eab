//! Why a call did not give what was asked for.

use std::io;
use std::time::Duration;

use cortex_proto::{DecodeError, DiscoveryStatus, RequestedCommand, TopicFilterError};
use thiserror::Error;

/// The result of a client's call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed, and whether the daemon may have changed something all the same.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The daemon knows no topic of this name. It has changed nothing.
    #[error("no such topic: {topic}")]
    NoSuchTopic {
        /// The name that was asked for.
        topic: String,
    },

    /// Another node has registered the topic. The daemon has changed nothing.
    #[error("topic {topic} is already registered by {}", node.as_deref().unwrap_or("another node"))]
    AlreadyRegistered {
        /// The topic that was to be registered.
        topic: String,
        /// The node that has it, when the daemon's words tell.
        node: Option<String>,
        /// The daemon's own words.
        message: String,
    },

    /// No answer came in time: there is no daemon, or it is slow, or the answer was lost. A
    /// register, unregister or shutdown **may have been carried out**; nothing else changes the
    /// daemon.
    #[error("no daemon answered within {} ms at {address}", waited.as_millis())]
    NoAnswer {
        /// Where the daemon was expected.
        address: String,
        /// The time that the daemon was given, all attempts together.
        waited: Duration,
        /// How often the request was sent.
        attempts: u32,
    },

    /// The daemon was there and has gone away, and no other has answered since. A watch tells it as
    /// its [`trouble`](crate::Watch::trouble); no call ends with it.
    #[error("the connection to the daemon at {address} is lost")]
    Disconnected {
        /// Where the daemon was.
        address: String,
    },

    /// The daemon answers, but the topic did not appear in time. It has changed nothing.
    #[error("topic {topic} did not appear within {} ms", waited.as_millis())]
    WaitTimedOut {
        /// The topic that was waited for.
        topic: String,
        /// The time that was waited.
        waited: Duration,
    },

    /// An answer came that is not one of the protocol's. A register, unregister or shutdown
    /// **may have been carried out**.
    #[error("the daemon's answer could not be read: {0}")]
    Unreadable(#[from] UnreadableReply),

    /// The daemon refused the request, or a failure kept it from carrying it out. It has changed
    /// nothing.
    #[error("the daemon answered with an error: {message}")]
    Refused {
        /// The daemon's own words.
        message: String,
    },

    /// The daemon does not know such a request: it speaks the legacy protocol alone. It has changed
    /// nothing.
    #[error("the daemon does not know {request}: it speaks no extensions of the protocol")]
    Unsupported {
        /// What was asked for.
        request: RequestedCommand,
    },

    /// What was to be watched is not a pattern of topic names. Nothing was sent.
    #[error("{filter:?} is not a pattern: {source}")]
    InvalidFilter {
        /// The pattern as it was given.
        filter: String,
        /// What is wrong with it.
        source: TopicFilterError,
    },

    /// ZeroMQ cannot connect to such an address. Nothing was sent.
    #[error("{address} is not an address to connect to: {source}")]
    InvalidAddress {
        /// The address as it was given.
        address: String,
        /// `ZeroMQ`'s reason.
        source: zmq::Error,
    },

    /// A later advertisement of the same client has the topic.
    #[error("topic {topic} is advertised anew by a later advertisement")]
    Replaced {
        /// The topic that was advertised.
        topic: String,
    },

    /// The thread that keeps topics registered could not be started, or has died. Nothing was sent.
    #[error("no thread to advertise topics with: {reason}")]
    Thread {
        /// The system's reason.
        reason: io::ErrorKind,
    },

    /// The socket failed on this side, for example because the process has no descriptors left. A
    /// register, unregister or shutdown **may have been carried out**.
    #[error("the connection to {address} failed: {source}")]
    Transport {
        /// Where the daemon was expected.
        address: String,
        /// `ZeroMQ`'s reason.
        source: zmq::Error,
    },

    /// The asynchronous client has no runtime to work on: it was made outside of one, or that one
    /// has ended. A register, unregister or shutdown that was under way **may have been carried
    /// out**.
    #[cfg(feature = "tokio")]
    #[error("the asynchronous client has no tokio runtime, or its runtime has ended")]
    NoRuntime,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnreadableReply {
    /// The body is not a response of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The answer does not consist of exactly one part.
    #[error("it has {count} parts instead of one")]
    Parts {
        /// The parts that came.
        count: usize,
    },
    /// The status is one that never answers such a request.
    #[error("the status {status} does not answer such a request")]
    Status {
        /// The status that came.
        status: DiscoveryStatus,
    },
    /// A lookup was answered with OK but without a topic.
    #[error("it says OK but holds no topic")]
    NoTopicInfo,
    /// A lookup was answered with another topic than the one that was asked for.
    #[error("it is about another topic, {found}")]
    OtherTopic {
        /// The topic in the answer.
        found: String,
    },
    /// What is known of the topics is not known of each of them.
    #[error("it tells of {entries} entries for {topics} topics")]
    Entries {
        /// The topics in the answer.
        topics: usize,
        /// The entries in the answer.
        entries: usize,
    },
    /// The answer to a watch does not tell to which place in the history it leads.
    #[error("it does not tell its place in the history")]
    NoRevision,
}
