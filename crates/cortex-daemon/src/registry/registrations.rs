//! Registering and removing topics: a change touches the directory, the probe schedules and the log
//! together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{DecodeError, Since, TopicInfo, TopicName};

use super::directory::Directory;
use super::directory::topics::{EndpointFinding, Entry};
use super::input::{ProbeResult, Timestamp};
use super::liveness::Liveness;
use super::liveness::probe_schedule::{ProbeSchedule, Verdict};
use super::log::record::{Change, EventKind, EvictionReason, Hold, Snapshot, Write};
use super::log::{ChangedTopic, Log};
use super::settings::Settings;
use crate::peer::{EndpointListener, Process};

/// After the store refused a batch, the daemon waits this long before it tries the batch's evictions
/// again.
pub(super) const EVICTION_RETRY: Duration = Duration::from_secs(1);

/// The most former owners that the daemon remembers for a topic.
const MAX_SUPERSEDED: usize = 8;

/// The topics, how the daemon probes them, and what has changed. All three are changed together and
/// rolled back together.
#[derive(Debug)]
pub(super) struct Registrations {
    pub(super) directory: Directory,
    pub(super) liveness: Liveness,
    pub(super) log: Log,
}

impl Registrations {
    /// The topics and the history that a former daemon has stored.
    pub(super) fn restore(
        settings: &Settings,
        snapshot: Snapshot,
        now: Timestamp,
    ) -> Result<Self, DecodeError> {
        let Snapshot { epoch, revision, records, history } = snapshot;
        let mut registrations = Self {
            directory: Directory::default(),
            liveness: Liveness::new(settings.probe_interval, settings.unreachable_after),
            log: Log::new(settings.history, Since { epoch, revision }, history),
        };
        for record in records {
            let info = TopicInfo::from_bytes(&record.packed)?;
            let entry = Entry::from_record(record, info, now);
            registrations.restore_topic(entry, now.instant);
        }
        Ok(registrations)
    }

    fn restore_topic(&mut self, entry: Entry, now: Instant) {
        if entry.hold == Hold::Process {
            let schedule = if entry.owner.process.is_none() {
                ProbeSchedule::unseen(now)
            } else if entry.found_alive {
                ProbeSchedule::restored(now)
            } else {
                ProbeSchedule::record_listener(now)
            };
            self.liveness.observe(entry.info.name.clone(), schedule);
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
        // The endpoint's past counts only as long as it is the same endpoint, and its listener only
        // for the same owner.
        if let Some(existing) = existing
            && existing.info.address == entry.info.address
        {
            entry.found_alive = existing.found_alive;
            let is_unseen = self.directory.needs_probes(&entry.hold, entry.owner.process);
            if existing.owner == entry.owner && !is_unseen {
                entry.listener = existing.listener;
            }
        }
        if let Some(existing) = existing {
            entry.superseded = superseded(existing, &entry);
        }
        entry.revision = self.log.next_revision();
        let schedule = if self.directory.needs_probes(&entry.hold, entry.owner.process) {
            Some(ProbeSchedule::unseen(now))
        } else if entry.hold == Hold::Process && entry.listener.is_none() {
            Some(ProbeSchedule::record_listener(now))
        } else {
            None
        };
        self.liveness.replace(&name, schedule);
        self.liveness.looks.end(&name);
        self.reprobe_endpoint(&entry, now);
        self.log.stage(kind, changed(&entry, Stored::Yes));
        self.directory.put(entry, now);
    }

    /// Stages a removal. Without effect when the topic is not registered.
    pub(super) fn remove(&mut self, name: &TopicName, kind: EventKind) {
        let Some(entry) = self.directory.remove(name) else { return };
        self.liveness.replace(name, None);
        self.liveness.looks.end(name);
        self.log.stage(kind, changed(&entry, Stored::No));
    }

    /// Marks the topics of a process that has ended as orphaned. Their endpoints are probed now.
    pub(super) fn process_exited(&mut self, process: Process, now: Instant) {
        for name in self.directory.process_exited(process) {
            self.liveness.observe(name, ProbeSchedule::orphaned(now));
        }
    }

    /// Notes that the daemon cannot watch a process. Its topics' endpoints are probed now.
    pub(super) fn process_unseen(&mut self, process: Process, now: Instant) {
        for name in self.directory.process_unseen(process) {
            self.liveness.observe(name, ProbeSchedule::unseen(now));
        }
    }

    /// Takes a probe's result, for the present registration. Returns what follows for the topic; `None`
    /// for a result that no schedule waits for.
    pub(super) fn probed(
        &mut self,
        name: &TopicName,
        result: ProbeResult,
        listener: Option<EndpointListener>,
        now: Instant,
    ) -> Option<Verdict> {
        let entry = self.directory.get(name.as_str())?;
        let registration = entry.registration(self.is_taken_over(entry, listener));
        let verdict = self.liveness.conclude(name, result, listener, &registration, now)?;
        // The past of an endpoint must survive a restart.
        if let Verdict::Served(listener) = verdict
            && let Some(entry) = self.directory.note_served(name, listener)
        {
            self.log.stage_record(entry.record());
        }
        // After that, so that no peer sees the finding before the store has it.
        let is_unreachable = self.liveness.is_unreachable(name, now);
        let finding = EndpointFinding { result: Some(result), is_unreachable };
        self.directory.note_finding(name, finding);
        Some(verdict)
    }

    /// Whether another socket listens at the endpoint than before, and another node has registered
    /// the endpoint since.
    fn is_taken_over(&self, entry: &Entry, found: Option<EndpointListener>) -> bool {
        has_changed(entry.listener, found) && self.directory.has_later_claim(entry)
    }

    /// Evicts a topic that is dead. Every peer sees it gone from now on, also if the store cannot
    /// keep the eviction.
    pub(super) fn evict(&mut self, name: &TopicName, reason: EvictionReason) {
        let Some(entry) = self.directory.evict(name, reason) else { return };
        self.liveness.forget(name);
        self.log.stage(EventKind::Evicted(reason), changed(&entry, Stored::No));
    }

    /// The store could not keep the listener of a living owner's endpoint: it is recorded again.
    fn record_listener_later(&mut self, name: &TopicName, now: Instant) {
        let Some(entry) = self.directory.get(name.as_str()) else { return };
        let is_owned = entry.hold == Hold::Process && entry.living_process().is_some();
        if is_owned && entry.listener.is_none() && !self.liveness.is_scheduled(name) {
            let schedule = ProbeSchedule::record_listener(now + EVICTION_RETRY);
            self.liveness.observe(name.clone(), schedule);
        }
    }

    /// A living process has registered an endpoint: the topics of dead and unseen owners at the same
    /// address may have lost it to that process.
    fn reprobe_endpoint(&mut self, new: &Entry, now: Instant) {
        let is_there = |name: &&TopicName| {
            let entry = self.directory.get(name.as_str());
            entry.is_some_and(|entry| entry.info.address == new.info.address)
        };
        let orphans: Vec<_> = self.liveness.orphans().filter(is_there).cloned().collect();
        for name in orphans.into_iter().chain(self.directory.unseen_at(&new.info)) {
            self.liveness.reschedule(&name, now);
        }
    }

    /// Hands out what the store must keep of all changes so far.
    pub(super) fn begin_commit(&mut self) -> Vec<Write> {
        self.directory.begin_commit();
        self.liveness.begin_commit();
        self.log.begin_commit()
    }

    /// The store has the changes that it had under way: returns them.
    pub(super) fn commit(&mut self) -> Vec<Change> {
        self.directory.commit();
        self.liveness.commit();
        self.log.commit()
    }

    /// Rolls back all changes that are not committed, and returns the topics that have their former
    /// state again. Topics that were evicted are probed again a little later.
    pub(super) fn rollback(&mut self, now: Instant) -> Vec<TopicName> {
        let names = self.directory.rollback(now);
        self.liveness.rollback(now);
        self.log.rollback();
        for name in &names {
            self.record_listener_later(name, now);
        }
        names
    }
}

/// Whether another socket or process listens at an endpoint than the recorded one.
pub(super) fn has_changed(
    recorded: Option<EndpointListener>,
    found: Option<EndpointListener>,
) -> bool {
    recorded.zip(found).is_some_and(|(recorded, found)| recorded != found)
}

/// The former owners whose UNREGISTER of the topic comes too late: living processes of the same user
/// and node.
fn superseded(existing: &Entry, new: &Entry) -> Vec<Process> {
    let mut former = existing.superseded.clone();
    let is_same_node = existing.info.publisher_node == new.info.publisher_node
        && existing.owner.uid == new.owner.uid;
    if let Some(process) = existing.living_process()
        && is_same_node
        && new.owner.process != Some(process)
    {
        former.push(process);
    }
    former.retain(|process| Some(*process) != new.owner.process);
    let beyond = former.len().saturating_sub(MAX_SUPERSEDED);
    former.drain(..beyond);
    former
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
