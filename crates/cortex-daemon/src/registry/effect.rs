//! What the registry wants done.

use std::sync::Arc;

use cortex_proto::{DiscoveryStatus, TopicInfo, TopicName};

use super::EventKind;
use crate::peer::{ConnectionId, PeerIdentity, Process, ReplyTo};

/// What is to be done after a batch, in the order of these fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The topics that have changed.
    pub changed: Vec<Change>,
    /// The peers that were refused what they asked for, and why.
    pub refused: Vec<Refusal>,
    /// The replies, in the order of the requests; those that were held back come last.
    pub replies: Vec<Reply>,
    /// For each request that is held back, its connection: when nobody is there any more,
    /// [`Input::Disconnected`](super::Input::Disconnected) is to be told.
    pub parked: Vec<ConnectionId>,
    /// For each request that was held back and will not be answered, its connection.
    pub cancelled: Vec<ConnectionId>,
    /// The processes to watch from now on: their end is to be told as
    /// [`Input::ProcessExited`](super::Input::ProcessExited), at once if they are gone already.
    pub watch: Vec<Process>,
    /// The processes that need not be watched any more.
    pub unwatch: Vec<Process>,
    /// The watched processes to look at now.
    pub check: Vec<Process>,
    /// The endpoints to look at.
    pub probe: Vec<ProbeRequest>,
    /// Whether the daemon is to end, after all that came before.
    pub stop: bool,
}

/// A change of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The number of the change.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The topic; the last that was known when it is gone.
    pub info: Arc<TopicInfo>,
    /// Whose topic it is, or was.
    pub owner: PeerIdentity,
}

/// A peer that may not do what it wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who.
    pub peer: PeerIdentity,
    /// What it was told.
    pub message: String,
}

/// A reply to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whom to answer.
    pub to: ReplyTo,
    /// How the request ended.
    pub status: DiscoveryStatus,
    /// The reply's bytes; one allocation may serve many peers.
    pub body: Arc<[u8]>,
}

/// An endpoint to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// The topic whose endpoint it is.
    pub name: TopicName,
    /// The registration whose endpoint it is.
    pub revision: u64,
    /// The endpoint.
    pub address: String,
}
