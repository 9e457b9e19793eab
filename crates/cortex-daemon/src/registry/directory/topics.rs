//! The topics, in the order of their first registration.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cortex_proto::{EndpointState, EntryExt, Hold as WireHold, TopicInfo, TopicName};

use crate::peer::{PeerIdentity, Process};
use crate::registry::liveness::probe_schedule::ProbeSchedule;
use crate::registry::{Hold, Record};

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
    /// Whether the endpoint was once found alive.
    pub(in crate::registry) found_alive: bool,
    pub(in crate::registry) probes: ProbeSchedule,
}

impl Entry {
    /// The process whose end would end the topic, unless it has ended already.
    pub(in crate::registry) fn living_process(&self) -> Option<Process> {
        self.owner.process.filter(|_| self.hold == Hold::Process && !self.probes.is_orphan())
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
            hold: self.hold.clone(),
            found_alive: self.found_alive,
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
            endpoint: if self.probes.is_orphan() {
                EndpointState::Orphaned
            } else if self.found_alive {
                EndpointState::Alive
            } else {
                EndpointState::Unknown
            },
        }
    }
}

/// A set of topics that remembers in which order they came. An entry keeps its order when it is
/// overwritten; a removed name that comes again goes last.
#[derive(Debug, Default)]
pub(in crate::registry) struct Topics {
    orders: HashMap<TopicName, u64>,
    by_order: BTreeMap<u64, Entry>,
    name_bytes: usize,
}

impl Topics {
    pub(in crate::registry) fn len(&self) -> usize {
        self.orders.len()
    }

    /// The bytes of all names.
    pub(in crate::registry) fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    pub(in crate::registry) fn get(&self, name: &str) -> Option<&Entry> {
        self.by_order.get(self.orders.get(name)?)
    }

    pub(in crate::registry) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.by_order.get_mut(self.orders.get(name)?)
    }

    /// The order behind all others.
    pub(in crate::registry) fn next_order(&self) -> u64 {
        self.by_order.last_key_value().map_or(0, |(order, _)| order + 1)
    }

    /// Puts an entry at its order.
    pub(in crate::registry) fn insert(&mut self, entry: Entry) {
        self.name_bytes += entry.info.name.as_str().len();
        self.orders.insert(entry.info.name.clone(), entry.order);
        if let Some(before) = self.by_order.insert(entry.order, entry) {
            self.name_bytes -= before.info.name.as_str().len();
        }
    }

    pub(in crate::registry) fn remove(&mut self, name: &str) -> Option<Entry> {
        let entry = self.by_order.remove(&self.orders.remove(name)?)?;
        self.name_bytes -= name.len();
        Some(entry)
    }

    /// In the order of first registration.
    pub(in crate::registry) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_order.values()
    }
}
