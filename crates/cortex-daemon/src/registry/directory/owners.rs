//! The processes that own topics: one watch serves all topics of a process.

use std::collections::{BTreeSet, HashMap, HashSet};

use cortex_proto::TopicName;

use crate::peer::Process;

/// The topics of each process, and the processes that the daemon watches.
///
/// A process is watched when it has a topic and is not known to be unseen.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Owners {
    topics: HashMap<Process, BTreeSet<TopicName>>,
    watched: HashSet<Process>,
    /// Processes that the daemon cannot watch.
    unseen: HashSet<Process>,
    /// Processes whose topics have changed since the last [`Self::take_watch_changes`].
    touched: Vec<Process>,
}

/// The watches that must begin and end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct WatchChanges {
    pub(in crate::registry) watch: Vec<Process>,
    pub(in crate::registry) unwatch: Vec<Process>,
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

    /// Forgets a process that has ended, and returns its topics.
    pub(super) fn process_exited(&mut self, process: Process) -> BTreeSet<TopicName> {
        self.watched.remove(&process);
        self.unseen.remove(&process);
        self.topics.remove(&process).unwrap_or_default()
    }

    /// Notes that the daemon cannot watch a process, and returns its topics.
    pub(super) fn process_unseen(&mut self, process: Process) -> BTreeSet<TopicName> {
        self.watched.remove(&process);
        let topics = self.topics.get(&process).cloned().unwrap_or_default();
        if !topics.is_empty() {
            self.unseen.insert(process);
        }
        topics
    }

    pub(super) fn is_unseen(&self, process: Process) -> bool {
        self.unseen.contains(&process)
    }

    pub(super) fn take_watch_changes(&mut self) -> WatchChanges {
        let mut changes = WatchChanges::default();
        for process in std::mem::take(&mut self.touched) {
            let is_owner = self.topics.contains_key(&process);
            if !is_owner {
                self.unseen.remove(&process);
            }
            if is_owner && !self.unseen.contains(&process) && self.watched.insert(process) {
                changes.watch.push(process);
            } else if !is_owner && self.watched.remove(&process) {
                changes.unwatch.push(process);
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Process {
        Process { pid, start_time: 1 }
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn changes(watch: &[u32], unwatch: &[u32]) -> WatchChanges {
        let processes = |pids: &[u32]| pids.iter().copied().map(process).collect();
        WatchChanges { watch: processes(watch), unwatch: processes(unwatch) }
    }

    #[test]
    fn a_process_is_watched_from_its_first_topic_to_its_last() {
        let mut owners = Owners::default();
        owners.add(process(1), name("/a"));
        owners.add(process(1), name("/b"));
        assert_eq!(owners.take_watch_changes(), changes(&[1], &[]));
        owners.remove(process(1), &name("/a"));
        assert_eq!(owners.take_watch_changes(), changes(&[], &[]));
        owners.remove(process(1), &name("/b"));
        assert_eq!(owners.take_watch_changes(), changes(&[], &[1]));
    }

    #[test]
    fn a_topic_that_comes_and_goes_within_a_batch_starts_no_watch() {
        let mut owners = Owners::default();
        owners.add(process(1), name("/a"));
        owners.remove(process(1), &name("/a"));
        assert_eq!(owners.take_watch_changes(), changes(&[], &[]));
    }

    #[test]
    fn an_unseen_process_is_watched_again_only_after_it_owned_nothing() {
        let mut owners = Owners::default();
        owners.add(process(1), name("/a"));
        owners.take_watch_changes();
        assert_eq!(owners.process_unseen(process(1)), [name("/a")].into());
        owners.add(process(1), name("/b"));
        assert_eq!(owners.take_watch_changes(), changes(&[], &[]));
        assert!(owners.is_unseen(process(1)));
        owners.remove(process(1), &name("/a"));
        owners.remove(process(1), &name("/b"));
        owners.take_watch_changes();
        owners.add(process(1), name("/a"));
        assert_eq!(owners.take_watch_changes(), changes(&[1], &[]));
    }

    #[test]
    fn a_process_that_has_ended_owns_nothing() {
        let mut owners = Owners::default();
        owners.add(process(1), name("/a"));
        owners.take_watch_changes();
        assert_eq!(owners.process_exited(process(1)), [name("/a")].into());
        assert_eq!(owners.process_exited(process(1)), [].into());
        assert_eq!(owners.take_watch_changes(), changes(&[], &[]), "its watch has ended by itself");
    }
}
