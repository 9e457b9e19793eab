//! The registry's effects: the actions that the daemon performs after a round.

use std::time::Duration;

use cortex_proto::TopicName;

use super::log::record::Change;
use super::reply::Reply;
use crate::peer::{ConnectionId, EndpointListener, PeerIdentity, Process};

/// What the daemon must do after a round, in the order of these fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The topics that have changed.
    pub changed: Vec<Change>,
    /// The requests that were refused for lack of access.
    pub refused: Vec<Refusal>,
    /// The REGISTERs that were refused because another node owns the topic.
    pub conflicts: Vec<NameConflict>,
    /// The LOOKUPs and WAITs that have not found their topic.
    pub missed: Vec<Miss>,
    /// The replies, in the order of the requests; replies to parked requests come last.
    pub replies: Vec<Reply>,
    /// For each request that waited and gets no reply, its connection.
    pub cancelled: Vec<ConnectionId>,
    /// The processes to watch from now on. The daemon reports the end of each as
    /// [`Input::ProcessExited`](super::Input::ProcessExited), at once if it has ended already.
    pub watch: Vec<Process>,
    /// The processes that need no watch any more.
    pub unwatch: Vec<Process>,
    /// The processes to check now: the daemon reports
    /// [`Input::ProcessChecked`](super::Input::ProcessChecked) for each.
    pub check: Vec<Process>,
    /// The endpoints to probe.
    pub probe: Vec<ProbeRequest>,
    /// Whether the daemon must stop, after everything before.
    pub stop: bool,
}

/// A request that the peer had no right to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The peer.
    pub peer: PeerIdentity,
    /// The reply's message.
    pub message: String,
}

/// Two nodes want one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameConflict {
    /// The topic.
    pub topic: TopicName,
    /// The node that owns it.
    pub owner_node: String,
    /// The user and the process that own it.
    pub owner: PeerIdentity,
    /// The node that was refused.
    pub node: String,
    /// The peer that was refused.
    pub peer: PeerIdentity,
}

/// A LOOKUP or WAIT that has not found its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The connection of the request.
    pub connection: ConnectionId,
    /// The name.
    pub topic: String,
}

/// An endpoint to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// The topic whose endpoint it is.
    pub name: TopicName,
    /// The revision of the registration that named the endpoint.
    pub revision: u64,
    /// The endpoint's address.
    pub address: String,
    /// The topic's owner, from whose point of view the address is meant.
    pub owner: PeerIdentity,
    /// How long the registry waits for a silent endpoint, at most 1 s.
    pub patience: Duration,
    /// Whether only a connection counts that is made from now on: another process may have taken the
    /// address a moment ago.
    pub needs_new_connection: bool,
    /// What listened at the endpoint after the registration, if a probe has seen it.
    pub listener: Option<EndpointListener>,
}
