//! Which endpoints the daemon probes, when, and what follows from the results; and the REGISTERs
//! that wait for a result.
//!
//! As in the directory, changes can be rolled back until the store has them: [`Liveness::rollback`]
//! restores the schedules that registrations and removals have replaced.

pub(super) mod evidence;
pub(super) mod looks;
pub(super) mod pending_registers;
pub(super) mod probe_schedule;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use crate::peer::EndpointListener;
use crate::registry::input::ProbeResult;
use evidence::Registration;
use looks::Looks;
use pending_registers::PendingRegisters;
use probe_schedule::{Pauses, ProbeSchedule, Verdict};

/// The probe schedules. A topic without one is not probed.
#[derive(Debug)]
pub(super) struct Liveness {
    pauses: Pauses,
    schedules: HashMap<TopicName, ProbeSchedule>,
    /// The topics whose owner has ended: each registration looks at them.
    orphans: HashSet<TopicName>,
    /// When each schedule's next probe is due.
    agenda: BTreeSet<(Instant, TopicName)>,
    pub(super) looks: Looks,
    pub(super) pending: PendingRegisters,
    /// The schedules that uncommitted changes have replaced, oldest first.
    undo: VecDeque<(TopicName, Option<ProbeSchedule>)>,
    /// How many of them belong to changes that the store has under way.
    committing: usize,
}

impl Liveness {
    /// Probes an endpoint every `interval`, or more rarely. A topic whose endpoint is unreachable
    /// for longer than `unreachable_after` is evicted; `None`: never.
    pub(super) fn new(interval: Duration, unreachable_after: Option<Duration>) -> Self {
        Self {
            pauses: Pauses { interval, unreachable_after },
            schedules: HashMap::new(),
            orphans: HashSet::new(),
            agenda: BTreeSet::new(),
            looks: Looks::default(),
            pending: PendingRegisters::default(),
            undo: VecDeque::new(),
            committing: 0,
        }
    }

    /// Probes a topic from now on, since something has become known of its owner.
    pub(super) fn observe(&mut self, name: TopicName, schedule: ProbeSchedule) {
        self.set(name, Some(schedule));
    }

    /// Sets the schedule of a topic that was registered or removed.
    pub(super) fn replace(&mut self, name: &TopicName, schedule: Option<ProbeSchedule>) {
        let before = self.set(name.clone(), schedule);
        self.undo.push_back((name.clone(), before));
    }

    /// Probes a dead topic no more.
    pub(super) fn forget(&mut self, name: &TopicName) {
        self.set(name.clone(), None);
        self.looks.end(name);
    }

    /// The store has all changes under way.
    pub(super) fn begin_commit(&mut self) {
        self.committing = self.undo.len();
    }

    /// Keeps the changes that the store had under way.
    pub(super) fn commit(&mut self) {
        self.undo.drain(..std::mem::take(&mut self.committing));
    }

    /// Undoes all changes that are not committed. Probes that were under way begin again, since
    /// their results may have come meanwhile.
    pub(super) fn rollback(&mut self, now: Instant) {
        self.committing = 0;
        for (name, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.set(name.clone(), before);
            self.change(&name, |schedule| schedule.begin_again(now));
        }
    }

    /// Makes a probe due at `when`, unless one is under way or the topic is not probed.
    pub(super) fn reschedule(&mut self, name: &TopicName, when: Instant) {
        self.change(name, |schedule| schedule.reschedule(when));
    }

    /// Begins the probes that are due, and returns their topics.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<TopicName> {
        let mut due = Vec::new();
        while let Some((when, name)) = self.agenda.first().cloned()
            && when <= now
        {
            self.agenda.pop_first();
            self.change(&name, ProbeSchedule::begin);
            due.push(name);
        }
        due
    }

    /// Takes a probe's result. `None` when the daemon has no probe of this topic under way.
    pub(super) fn conclude(
        &mut self,
        name: &TopicName,
        result: ProbeResult,
        listener: Option<EndpointListener>,
        registration: &Registration,
        now: Instant,
    ) -> Option<Verdict> {
        let pauses = self.pauses;
        let verdict = self.change(name, |schedule| {
            let is_expected = schedule.is_probing();
            is_expected.then(|| schedule.conclude(result, listener, registration, now, pauses))
        })??;
        if self.schedules.get(name).is_some_and(ProbeSchedule::is_over) {
            self.set(name.clone(), None);
        }
        Some(verdict)
    }

    /// Whether a probe of the topic is due or under way.
    pub(super) fn is_scheduled(&self, name: &TopicName) -> bool {
        self.schedules.contains_key(name)
    }

    /// Whether the endpoint could not be reached for so long that its name is free.
    pub(super) fn is_unreachable(&self, name: &TopicName, now: Instant) -> bool {
        self.schedules.get(name).is_some_and(|schedule| schedule.is_unreachable(now))
    }

    /// Whether an orphan's endpoint has shown nothing since its owner ended.
    pub(super) fn is_orphan_without_result(&self, name: &TopicName) -> bool {
        let schedule = self.schedules.get(name);
        schedule.is_some_and(|known| known.is_for_orphan() && known.last_result().is_none())
    }

    /// Time has passed in which the daemon did not look: unreachable endpoints get it again.
    pub(super) fn time_gap(&mut self) {
        self.schedules.values_mut().for_each(ProbeSchedule::time_gap);
    }

    /// The topics whose owner has ended.
    pub(super) fn orphans(&self) -> impl Iterator<Item = &TopicName> {
        self.orphans.iter()
    }

    /// Whether a probe is under way.
    pub(super) fn is_probing(&self) -> bool {
        self.schedules.values().any(ProbeSchedule::is_probing)
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.agenda.first().map(|(due, _)| *due)
    }

    fn set(&mut self, name: TopicName, schedule: Option<ProbeSchedule>) -> Option<ProbeSchedule> {
        let before = self.schedules.remove(&name);
        if let Some(due) = before.as_ref().and_then(ProbeSchedule::due) {
            self.agenda.remove(&(due, name.clone()));
        }
        if before.as_ref().is_some_and(ProbeSchedule::is_for_orphan) {
            self.orphans.remove(&name);
        }
        if let Some(schedule) = schedule {
            if schedule.is_for_orphan() {
                self.orphans.insert(name.clone());
            }
            self.agenda.extend(schedule.due().map(|due| (due, name.clone())));
            self.schedules.insert(name, schedule);
        }
        before
    }

    fn change<T>(
        &mut self,
        name: &TopicName,
        change: impl FnOnce(&mut ProbeSchedule) -> T,
    ) -> Option<T> {
        let schedule = self.schedules.get_mut(name)?;
        let before = schedule.due();
        let result = change(schedule);
        let after = schedule.due();
        if before != after {
            before.map(|due| self.agenda.remove(&(due, name.clone())));
            after.map(|due| self.agenda.insert((due, name.clone())));
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests;
