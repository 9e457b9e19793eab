//! Which processes' ends would end which topics: one watch serves all topics of a process.

use std::collections::{BTreeSet, HashMap, HashSet};

use cortex_proto::TopicName;

use crate::peer::Process;
use crate::registry::Effects;

/// The topics of each process, and which processes are watched.
#[derive(Debug, Default)]
pub(in crate::registry) struct Owners {
    topics: HashMap<Process, BTreeSet<TopicName>>,
    watched: HashSet<Process>,
    /// Those that could not be watched.
    unseen: HashSet<Process>,
    /// Those whose topics have changed since the last [`Self::settle`].
    touched: Vec<Process>,
}

impl Owners {
    pub(in crate::registry) fn add(&mut self, process: Process, name: TopicName) {
        self.topics.entry(process).or_default().insert(name);
        self.touched.push(process);
    }

    pub(in crate::registry) fn remove(&mut self, process: Process, name: &TopicName) {
        if let Some(names) = self.topics.get_mut(&process) {
            names.remove(name);
            if names.is_empty() {
                self.topics.remove(&process);
            }
        }
        self.touched.push(process);
    }

    /// Forgets a process that is gone; gives its topics.
    pub(in crate::registry) fn forget(&mut self, process: Process) -> BTreeSet<TopicName> {
        self.watched.remove(&process);
        self.unseen.remove(&process);
        self.topics.remove(&process).unwrap_or_default()
    }

    /// Notes that a process could not be watched; gives its topics.
    pub(in crate::registry) fn lose_sight(&mut self, process: Process) -> BTreeSet<TopicName> {
        self.watched.remove(&process);
        let topics = self.topics.get(&process).cloned().unwrap_or_default();
        if !topics.is_empty() {
            self.unseen.insert(process);
        }
        topics
    }

    pub(in crate::registry) fn is_unseen(&self, process: Process) -> bool {
        self.unseen.contains(&process)
    }

    /// Asks for the watches that are wanted now and were not before, and the other way round.
    pub(in crate::registry) fn settle(&mut self, effects: &mut Effects) {
        for process in std::mem::take(&mut self.touched) {
            let is_wanted = self.topics.contains_key(&process);
            if !is_wanted {
                self.unseen.remove(&process);
            }
            if is_wanted && !self.unseen.contains(&process) && self.watched.insert(process) {
                effects.watch.push(process);
            } else if !is_wanted && self.watched.remove(&process) {
                effects.unwatch.push(process);
            }
        }
    }
}
