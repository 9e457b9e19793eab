//! Which processes' ends would end which topics: one watch serves all topics of a process.

use std::collections::{BTreeSet, HashMap, HashSet};

use cortex_proto::TopicName;

use super::Effects;
use crate::peer::Process;

/// The topics of each process, and which processes are watched.
#[derive(Debug, Default)]
pub(super) struct Owners {
    topics: HashMap<Process, BTreeSet<TopicName>>,
    watched: HashSet<Process>,
    /// Those whose topics have changed since the last [`Self::settle`].
    touched: Vec<Process>,
}

impl Owners {
    pub(super) fn add(&mut self, process: Process, name: TopicName) {
        self.topics.entry(process).or_default().insert(name);
        self.touched.push(process);
    }

    pub(super) fn remove(&mut self, process: Process, name: &TopicName) {
        if let Some(names) = self.topics.get_mut(&process) {
            names.remove(name);
            if names.is_empty() {
                self.topics.remove(&process);
            }
        }
        self.touched.push(process);
    }

    /// Forgets a process that is not watched any more; gives its topics.
    pub(super) fn forget(&mut self, process: Process) -> BTreeSet<TopicName> {
        self.watched.remove(&process);
        self.topics.remove(&process).unwrap_or_default()
    }

    /// Asks for the watches that are wanted now and were not before, and the other way round.
    pub(super) fn settle(&mut self, effects: &mut Effects) {
        for process in std::mem::take(&mut self.touched) {
            let is_wanted = self.topics.contains_key(&process);
            if is_wanted && self.watched.insert(process) {
                effects.watch.push(process);
            } else if !is_wanted && self.watched.remove(&process) {
                effects.unwatch.push(process);
            }
        }
    }
}
