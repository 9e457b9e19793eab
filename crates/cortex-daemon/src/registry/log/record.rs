//! What the daemon stores of topics and changes, so that a restart finds it again.

use std::sync::Arc;

use cortex_proto::{TopicInfo, TopicName};

use crate::peer::{EndpointListener, PeerIdentity, Process};

/// A topic as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: TopicName,
    /// Its rank in the list: topics of lower numbers come first.
    pub order: u64,
    /// Its topic info, packed.
    pub packed: Arc<[u8]>,
    /// The revision of its last change.
    pub revision: u64,
    /// When that change was made, in ms since 1970.
    pub changed_ms: u64,
    /// The user that registered it; `None` when unknown.
    pub uid: Option<u32>,
    /// The process that registered it; `None` when unknown.
    pub process: Option<Process>,
    /// Whether its owner was in the daemon's network namespace.
    pub is_local: bool,
    /// What listened at its endpoint after the registration; `None` when unknown.
    pub listener: Option<EndpointListener>,
    /// What keeps it registered.
    pub hold: Hold,
    /// Whether a probe once found its endpoint alive.
    pub found_alive: bool,
}

/// What keeps a topic registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The process that registered it, or where that is unknown its endpoint.
    Process,
    /// A session, as long as a client renews it.
    Session {
        /// The session's id among its user's sessions.
        id: String,
        /// The time from a renewal to the session's end, in ms.
        lease_ms: u64,
    },
    /// Nothing: it stays until a peer unregisters it.
    Static,
}

/// A change in what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The topic that changes.
    pub name: TopicName,
    /// Its new record; `None` when the topic is removed.
    pub record: Option<Record>,
    /// The history's event, when the change has a revision.
    pub event: Option<Event>,
}

/// A change in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision that it made.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The packed topic info; the last known one for a removal.
    pub packed: Arc<[u8]>,
}

/// A change of a topic that counts: it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that it made.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The topic info; the last known one for a removal.
    pub info: Arc<TopicInfo>,
    /// The topic's owner; the last one for a removal.
    pub owner: PeerIdentity,
}

/// What happened to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was registered for the first time.
    Registered,
    /// It was registered again.
    Updated,
    /// A peer unregistered it.
    Unregistered,
    /// The daemon removed it.
    Evicted(EvictionReason),
}

/// Why the daemon removed a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// Its owner's process has ended and its endpoint is dead.
    OwnerExited,
    /// Its session ended without a renewal.
    LeaseExpired,
    /// Its endpoint, once alive, is dead.
    EndpointDead,
}

impl EventKind {
    /// The protocol's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Updated => "updated",
            Self::Unregistered => "unregistered",
            Self::Evicted(_) => "evicted",
        }
    }

    /// The protocol's word for the reason of a removal; `None` for other events.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Registered | Self::Updated => None,
            Self::Unregistered => Some("unregistered"),
            Self::Evicted(EvictionReason::OwnerExited) => Some("owner exited"),
            Self::Evicted(EvictionReason::LeaseExpired) => Some("lease expired"),
            Self::Evicted(EvictionReason::EndpointDead) => Some("endpoint dead"),
        }
    }
}

/// Everything that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The number of this history: random, and a new one when history is lost or the machine has
    /// booted.
    pub epoch: u64,
    /// The revision of the last change.
    pub revision: u64,
    /// The topics, in the list's order.
    pub records: Vec<Record>,
    /// The last events and their topics, oldest first.
    pub history: Vec<(TopicName, Event)>,
}
