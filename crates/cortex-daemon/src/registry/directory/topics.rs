//! The topics, in the order of their first registration.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cortex_proto::{EndpointState, EntryExt, Hold as WireHold, TopicInfo, TopicName};

use super::sessions::SessionKey;
use crate::peer::{EndpointListener, PeerIdentity, Process};
use crate::registry::input::{ProbeResult, Timestamp, UnknownReason};
use crate::registry::liveness::evidence::Registration;
use crate::registry::log::record::{EvictionReason, Hold, Record};

/// The packed topic infos of a list, in its order.
pub(in crate::registry) type TopicList = Arc<[Arc<[u8]>]>;

/// A registered topic.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Entry {
    pub(in crate::registry) info: Arc<TopicInfo>,
    /// `info` as it goes out, packed once.
    pub(in crate::registry) packed: Arc<[u8]>,
    pub(in crate::registry) order: u64,
    pub(in crate::registry) revision: u64,
    pub(in crate::registry) changed_ms: u64,
    pub(in crate::registry) owner: PeerIdentity,
    pub(in crate::registry) hold: Hold,
    /// What listened at the endpoint after the registration; `None` until a probe has seen it.
    pub(in crate::registry) listener: Option<EndpointListener>,
    /// Whether a probe once found the endpoint alive.
    pub(in crate::registry) found_alive: bool,
    /// Whether the process that holds the topic has ended.
    pub(in crate::registry) is_orphaned: bool,
    /// Why the daemon has evicted the topic, when it could not store the eviction yet. Such a topic
    /// is hidden from every peer.
    pub(in crate::registry) dead: Option<EvictionReason>,
    /// When the topic was registered, in clock ticks since boot.
    pub(in crate::registry) registered_ticks: u64,
    /// Whether a former daemon has stored the topic.
    pub(in crate::registry) is_restored: bool,
    /// What the last probe of the endpoint found.
    pub(in crate::registry) endpoint: EndpointFinding,
    /// Former owners of the same node and user that were alive when another process registered the
    /// topic again. Their UNREGISTER comes too late.
    pub(in crate::registry) superseded: Vec<Process>,
}

/// What the last probe of an endpoint found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct EndpointFinding {
    pub(in crate::registry) result: Option<ProbeResult>,
    /// Whether the endpoint could not be reached for so long that its name is free.
    pub(in crate::registry) is_unreachable: bool,
}

impl Entry {
    /// The process whose end would end the topic, unless it has ended already.
    pub(in crate::registry) fn living_process(&self) -> Option<Process> {
        self.owner.process.filter(|_| self.hold == Hold::Process && !self.is_orphaned)
    }

    /// The session that holds the topic, and the lease in ms that the topic was registered with.
    pub(in crate::registry) fn session(&self) -> Option<(SessionKey, u64)> {
        match &self.hold {
            Hold::Session { id, lease_ms } => {
                Some((SessionKey { uid: self.owner.uid, id: id.clone() }, *lease_ms))
            }
            Hold::Process | Hold::Static => None,
        }
    }

    pub(in crate::registry) fn record(&self) -> Record {
        Record {
            name: self.info.name.clone(),
            order: self.order,
            packed: Arc::clone(&self.packed),
            revision: self.revision,
            changed_ms: self.changed_ms,
            uid: self.owner.uid,
            process: self.owner.process,
            is_local: self.owner.is_local,
            listener: self.listener,
            hold: self.hold.clone(),
            found_alive: self.found_alive,
        }
    }

    /// The entry that a record was made from. A restarted daemon treats every owner as running,
    /// until it has checked the process.
    pub(in crate::registry) fn from_record(
        record: Record,
        info: TopicInfo,
        now: Timestamp,
    ) -> Self {
        Self {
            info: Arc::new(info),
            packed: record.packed,
            order: record.order,
            revision: record.revision,
            changed_ms: record.changed_ms,
            owner: PeerIdentity {
                uid: record.uid,
                process: record.process,
                is_local: record.is_local,
            },
            listener: record.listener,
            hold: record.hold,
            found_alive: record.found_alive,
            is_orphaned: false,
            dead: None,
            registered_ticks: now.boot_ticks_at(record.changed_ms),
            is_restored: true,
            endpoint: EndpointFinding::default(),
            superseded: Vec::new(),
        }
    }

    fn endpoint_state(&self) -> EndpointState {
        if self.is_orphaned {
            return EndpointState::Orphaned;
        }
        if self.endpoint.is_unreachable {
            return EndpointState::Unreachable;
        }
        match self.endpoint.result {
            Some(ProbeResult::Dead) => EndpointState::Dead,
            Some(ProbeResult::Alive | ProbeResult::Silent) => EndpointState::Alive,
            Some(ProbeResult::Unreachable) | None if self.found_alive => EndpointState::Alive,
            Some(ProbeResult::Unknown(_) | ProbeResult::Unreachable) | None => {
                EndpointState::Unknown
            }
        }
    }

    fn unknown_reason(&self) -> Option<UnknownReason> {
        match self.endpoint.result {
            Some(ProbeResult::Unknown(reason)) if !self.is_orphaned => Some(reason),
            _ => None,
        }
    }

    /// What the topic is judged by when its owner is dead or unseen.
    pub(in crate::registry) fn registration(&self, is_taken_over: bool) -> Registration {
        Registration {
            owner: self.owner.process,
            registered_ticks: self.registered_ticks,
            is_restored: self.is_restored,
            listener: self.listener,
            found_alive: self.found_alive,
            is_taken_over,
        }
    }

    pub(in crate::registry) fn describe(&self, unix_ms: u64) -> EntryExt {
        EntryExt {
            uid: self.owner.uid.map(u64::from),
            pid: self.owner.process.map(|process| u64::from(process.pid)),
            hold: match self.hold {
                Hold::Process => WireHold::Process,
                Hold::Session { .. } => WireHold::Session,
                Hold::Static => WireHold::Static,
            },
            revision: self.revision,
            age_ms: unix_ms.saturating_sub(self.changed_ms),
            endpoint: self.endpoint_state(),
            endpoint_reason: self.unknown_reason().map(|reason| reason.word().to_owned()),
        }
    }
}

/// A set of topics that remembers the order of their first registration. An entry keeps its place
/// in the order when it is overwritten; a removed name that is registered again goes last.
#[derive(Debug, Default)]
pub(super) struct Topics {
    orders: HashMap<TopicName, u64>,
    by_order: BTreeMap<u64, Entry>,
}

impl Topics {
    pub(super) fn len(&self) -> usize {
        self.orders.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.by_order.get(self.orders.get(name)?)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.by_order.get_mut(self.orders.get(name)?)
    }

    /// The place behind all others.
    pub(super) fn next_order(&self) -> u64 {
        self.by_order.last_key_value().map_or(0, |(order, _)| order + 1)
    }

    /// Puts an entry at its place in the order, which no other topic has.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.orders.insert(entry.info.name.clone(), entry.order);
        self.by_order.insert(entry.order, entry);
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry> {
        self.by_order.remove(&self.orders.remove(name)?)
    }

    /// In the order of first registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_order.values()
    }
}
