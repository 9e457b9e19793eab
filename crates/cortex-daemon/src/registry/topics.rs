//! The topics, in the order of their first registration.

use std::collections::{BTreeMap, HashMap};

use cortex_proto::{TopicInfo, TopicName};

/// A registered topic.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: TopicInfo,
    /// `info` as it goes out, packed once.
    pub(super) packed: Vec<u8>,
}

/// A set of topics that remembers in which order they came. An entry keeps its place when it is
/// overwritten; a removed name that comes again goes last.
#[derive(Debug, Default)]
pub(super) struct Topics {
    places: HashMap<TopicName, u64>,
    by_place: BTreeMap<u64, Entry>,
    next_place: u64,
}

impl Topics {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.by_place.get(self.places.get(name)?)
    }

    pub(super) fn put(&mut self, info: TopicInfo) {
        let place = *self.places.entry(info.name.clone()).or_insert_with(|| {
            self.next_place += 1;
            self.next_place
        });
        let packed = info.to_bytes();
        self.by_place.insert(place, Entry { info, packed });
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<TopicName> {
        let (name, place) = self.places.remove_entry(name)?;
        self.by_place.remove(&place);
        Some(name)
    }

    /// In the order of first registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_place.values()
    }
}
