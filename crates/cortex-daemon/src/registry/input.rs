//! What the registry is told.

use std::time::Instant;

use cortex_proto::{DiscoveryRequest, TopicName};

use crate::peer::{ConnectionId, PeerIdentity, Process, ReplyTo};

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all inputs are requests")]
pub enum Input {
    /// A peer asks for something.
    Request(PeerRequest),
    /// A process that was watched is gone. Told of a process that is not watched, it means
    /// nothing.
    ProcessExited(Process),
    /// A process cannot be watched: whether it lives must be told from its topics' endpoints.
    ProcessUnseen(Process),
    /// The look at a process that [`Effects::check`](super::Effects::check) asked for has been
    /// taken. That it is gone, if it is, was told before.
    ProcessChecked(Process),
    /// An endpoint was looked at. For another registration than the present one it means nothing.
    EndpointProbed {
        /// The topic.
        name: TopicName,
        /// The registration whose endpoint it was.
        revision: u64,
        /// What was found.
        finding: ProbeResult,
    },
    /// Time may have come for something; told too early it means nothing.
    Tick {
        /// Whether all requests that have arrived were handed over.
        all_dispatched: bool,
    },
    /// A peer has closed its connection, or is gone: nobody waits there any longer.
    Disconnected(ConnectionId),
    /// Counters and gauges of what is outside, by name, for a STATS that follows.
    Outside(Vec<(&'static str, u64)>),
    /// The daemon ends: nobody waits any longer.
    ShuttingDown,
    /// Time has passed in which nobody could be heard: the machine or the daemon stood still.
    TimeGap,
}

/// A request, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRequest {
    /// Whom to answer.
    pub reply_to: ReplyTo,
    /// Who that is.
    pub peer: PeerIdentity,
    /// Whether it is a REQ socket: with a new request it has given up waiting for the one before.
    pub is_req: bool,
    /// What it asks for.
    pub request: Result<DiscoveryRequest, UnreadableRequest>,
}

/// A request that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRequest {
    /// What is wrong with it.
    pub problem: String,
    /// Whether its answer is to have an extension.
    pub asks_for_ext: bool,
}

/// What a look at an endpoint has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeResult {
    /// Nobody listens there.
    Dead,
    /// Somebody listens there, but did not say the first byte of a ZMTP greeting within 1 s, or
    /// has no room for a connection.
    Silent,
    /// A ZeroMQ socket is there.
    Alive,
    /// It cannot be told.
    Unknown,
}

/// A point in time, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// For deadlines: it never jumps.
    pub instant: Instant,
    /// For ages that outlive the daemon: ms since 1970.
    pub unix_ms: u64,
}
