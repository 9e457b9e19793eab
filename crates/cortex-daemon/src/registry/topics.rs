//! The topics, in the order of their first registration.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cortex_proto::{EndpointState, EntryExt, Hold, TopicInfo, TopicName};

use super::liveness::Vigil;
use super::{Keep, Record};
use crate::peer::{Peer, Process};

/// A registered topic.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) info: Arc<TopicInfo>,
    /// `info` as it goes out, packed once.
    pub(super) packed: Arc<[u8]>,
    pub(super) place: u64,
    pub(super) revision: u64,
    pub(super) changed_ms: u64,
    pub(super) owner: Peer,
    pub(super) keep: Keep,
    /// Whether the endpoint was once found alive.
    pub(super) found_alive: bool,
    pub(super) vigil: Vigil,
}

impl Entry {
    /// The process whose end would end the topic, unless it has ended already.
    pub(super) fn living_process(&self) -> Option<Process> {
        self.owner.process.filter(|_| self.keep == Keep::Process && !self.vigil.is_orphan())
    }

    pub(super) fn record(&self) -> Record {
        Record {
            name: self.info.name.clone(),
            place: self.place,
            packed: Arc::clone(&self.packed),
            revision: self.revision,
            changed_ms: self.changed_ms,
            uid: self.owner.uid,
            process: self.owner.process,
            keep: self.keep.clone(),
            found_alive: self.found_alive,
        }
    }

    pub(super) fn describe(&self, unix_ms: u64) -> EntryExt {
        EntryExt {
            uid: self.owner.uid.map(u64::from),
            pid: self.owner.process.map(|process| u64::from(process.pid)),
            hold: match self.keep {
                Keep::Process => Hold::Process,
                Keep::Session { .. } => Hold::Session,
                Keep::Static => Hold::Static,
            },
            revision: self.revision,
            age_ms: unix_ms.saturating_sub(self.changed_ms),
            endpoint: if self.vigil.is_orphan() {
                EndpointState::Orphaned
            } else if self.found_alive {
                EndpointState::Alive
            } else {
                EndpointState::Unknown
            },
        }
    }
}

/// A set of topics that remembers in which order they came. An entry keeps its place when it is
/// overwritten; a removed name that comes again goes last.
#[derive(Debug, Default)]
pub(super) struct Topics {
    places: HashMap<TopicName, u64>,
    by_place: BTreeMap<u64, Entry>,
    name_bytes: usize,
}

impl Topics {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The bytes of all names.
    pub(super) fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.by_place.get(self.places.get(name)?)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.by_place.get_mut(self.places.get(name)?)
    }

    /// The place behind all others.
    pub(super) fn next_place(&self) -> u64 {
        self.by_place.last_key_value().map_or(0, |(place, _)| place + 1)
    }

    /// Puts an entry at its place.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.name_bytes += entry.info.name.as_str().len();
        self.places.insert(entry.info.name.clone(), entry.place);
        if let Some(before) = self.by_place.insert(entry.place, entry) {
            self.name_bytes -= before.info.name.as_str().len();
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry> {
        let entry = self.by_place.remove(&self.places.remove(name)?)?;
        self.name_bytes -= name.len();
        Some(entry)
    }

    /// In the order of first registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_place.values()
    }
}
