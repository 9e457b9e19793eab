//! What is kept of the topics between one life of the daemon and the next.

use std::sync::Arc;

use cortex_proto::TopicName;

use crate::peer::Process;

/// A topic as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: TopicName,
    /// Its order in the list; the order counts, not the number.
    pub order: u64,
    /// Its packed topic info.
    pub packed: Arc<[u8]>,
    /// The change that made it what it is.
    pub revision: u64,
    /// When that was, in ms since 1970.
    pub changed_ms: u64,
    /// The user that registered it, if known.
    pub uid: Option<u32>,
    /// The process that registered it, if known.
    pub process: Option<Process>,
    /// What keeps it.
    pub hold: Hold,
    /// Whether its endpoint was once found alive.
    pub found_alive: bool,
}

/// What keeps a topic registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The process that registered it, or where that is unknown its endpoint.
    Process,
    /// A session, as long as it is renewed.
    Session {
        /// The session's name among its user's.
        id: String,
        /// For how long it stays without being renewed, in ms.
        lease_ms: u64,
    },
    /// Nothing: it stays until it is unregistered.
    Static,
}

/// A change in what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The topic that changes.
    pub name: TopicName,
    /// What it is from now on; `None` when it is gone.
    pub record: Option<Record>,
    /// The event of the history, when the change is one that others are told of.
    pub event: Option<Event>,
}

/// An event of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The packed topic info; the last known one when the topic is gone.
    pub packed: Arc<[u8]>,
}

/// What happened to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is there and was not before.
    Registered,
    /// Its publisher registered it again.
    Updated,
    /// A peer unregistered it.
    Unregistered,
    /// The daemon removed it.
    Evicted(EvictionReason),
}

/// Why the daemon removed a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// Its process is gone, and so is its endpoint.
    OwnerExited,
    /// Its session was not renewed.
    LeaseExpired,
    /// Its endpoint, once alive, is dead.
    EndpointDead,
}

impl EventKind {
    /// The word of the protocol.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Updated => "updated",
            Self::Unregistered => "unregistered",
            Self::Evicted(_) => "evicted",
        }
    }

    /// Why a topic is gone, in the words of the protocol; `None` when it is not.
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

/// All that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The number of this history: random, and another one when history is lost or the machine
    /// has booted.
    pub epoch: u64,
    /// How many changes there have been in this epoch.
    pub revision: u64,
    /// The topics, by order.
    pub records: Vec<Record>,
    /// The last events and the topics that they are about, oldest first.
    pub history: Vec<(TopicName, Event)>,
}
