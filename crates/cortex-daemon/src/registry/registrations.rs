//! Registering and removing topics: a change touches the directory, the probe schedules and the log
//! together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use super::directory::Directory;
use super::directory::topics::Entry;
use super::input::ProbeResult;
use super::liveness::Liveness;
use super::liveness::probe_schedule::{ProbeSchedule, Verdict};
use super::log::record::{Change, EventKind};
use super::log::{ChangedTopic, Log};
use crate::peer::Process;

/// After the store refused a batch, the daemon waits this long before it tries the batch's evictions
/// again.
pub(super) const EVICTION_RETRY: Duration = Duration::from_secs(1);

/// The topics, how the daemon probes them, and what has changed. All three are changed together and
/// rolled back together.
#[derive(Debug)]
pub(super) struct Registrations {
    pub(super) directory: Directory,
    pub(super) liveness: Liveness,
    pub(super) log: Log,
}

impl Registrations {
    /// Adds a topic that a former daemon has stored.
    pub(super) fn restore(&mut self, entry: Entry, now: Instant) {
        if self.directory.needs_probes(&entry.hold, entry.owner.process) {
            self.liveness.observe(entry.info.name.clone(), ProbeSchedule::unseen(now));
        }
        self.directory.restore(entry, now);
    }

    /// Stages a registration. `entry` gets the next revision, and keeps the order and the past of
    /// the topic's former entry.
    pub(super) fn register(&mut self, mut entry: Entry, now: Instant) {
        let name = entry.info.name.clone();
        let existing = self.directory.get(name.as_str());
        let kind = if existing.is_some() { EventKind::Updated } else { EventKind::Registered };
        entry.order = existing.map_or_else(|| self.directory.next_order(), |entry| entry.order);
        // The endpoint's past counts only as long as it is the same endpoint.
        entry.found_alive = existing.is_some_and(|existing| {
            existing.found_alive && existing.info.address == entry.info.address
        });
        entry.revision = self.log.next_revision();
        let needs_probes = self.directory.needs_probes(&entry.hold, entry.owner.process);
        let schedule = needs_probes.then(|| ProbeSchedule::unseen(now));
        self.liveness.replace(&name, schedule);
        self.log.stage(kind, changed(&entry, Stored::Yes));
        self.directory.put(entry, now);
    }

    /// Stages a removal. Without effect when the topic is not registered.
    pub(super) fn remove(&mut self, name: &TopicName, kind: EventKind) {
        let Some(entry) = self.directory.remove(name) else { return };
        self.liveness.replace(name, None);
        self.log.stage(kind, changed(&entry, Stored::No));
    }

    /// Marks the topics of a process that has ended as orphaned. Their endpoints are probed now.
    pub(super) fn process_exited(&mut self, process: Process, now: Instant) {
        for name in self.directory.process_exited(process) {
            self.liveness.observe(name, ProbeSchedule::orphan(now));
        }
    }

    /// Notes that the daemon cannot watch a process. Its topics' endpoints are probed now.
    pub(super) fn process_unseen(&mut self, process: Process, now: Instant) {
        for name in self.directory.process_unseen(process) {
            self.liveness.observe(name, ProbeSchedule::unseen(now));
        }
    }

    /// Takes the result of a probe for the registration of this revision. `None` if the topic has
    /// another registration by now, or if no probe of it is under way.
    pub(super) fn probed(
        &mut self,
        name: &TopicName,
        revision: u64,
        result: ProbeResult,
        now: Instant,
    ) -> Option<Verdict> {
        let entry = self.directory.get(name.as_str())?;
        if entry.revision != revision {
            return None;
        }
        let verdict = self.liveness.conclude(name, result, entry.found_alive, now)?;
        // The past of an endpoint must survive a restart.
        if verdict == Verdict::FoundAlive
            && let Some(entry) = self.directory.note_alive(name)
        {
            self.log.stage_record(entry.record());
        }
        Some(verdict)
    }

    /// Makes the batch count, and returns its changes.
    pub(super) fn commit(&mut self) -> Vec<Change> {
        self.directory.commit();
        self.liveness.commit();
        self.log.commit()
    }

    /// Rolls the batch back, and returns the topics that have their former state again. Topics that
    /// the batch evicted are probed again a little later.
    pub(super) fn rollback(&mut self, now: Instant) -> Vec<TopicName> {
        self.directory.rollback(now);
        self.liveness.rollback();
        let rolled_back = self.log.rollback();
        for change in rolled_back.changes {
            if matches!(change.kind, EventKind::Evicted(_)) {
                self.liveness.reschedule(&change.info.name, now + EVICTION_RETRY);
            }
        }
        rolled_back.names
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Yes,
    No,
}

fn changed(entry: &Entry, stored: Stored) -> ChangedTopic {
    ChangedTopic {
        info: Arc::clone(&entry.info),
        packed: Arc::clone(&entry.packed),
        owner: entry.owner,
        record: (stored == Stored::Yes).then(|| entry.record()),
    }
}
