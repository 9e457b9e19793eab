//! Which endpoints the daemon probes, when, and what follows from the results; and the REGISTERs
//! that wait for a result.
//!
//! As in the directory, a batch can be rolled back: [`Liveness::rollback`] restores the schedules
//! that registrations and removals have replaced.

pub(super) mod pending_registers;
pub(super) mod probe_schedule;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use crate::registry::input::ProbeResult;
use pending_registers::PendingRegisters;
use probe_schedule::{ProbeSchedule, Verdict};

/// The probe schedules. A topic without one is not probed.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The pause between two probes of an endpoint.
    interval: Duration,
    schedules: HashMap<TopicName, ProbeSchedule>,
    /// When each schedule's next probe is due.
    agenda: BTreeSet<(Instant, TopicName)>,
    pub(super) pending: PendingRegisters,
    /// The schedules that the batch has replaced, oldest first.
    undo: Vec<(TopicName, Option<ProbeSchedule>)>,
}

impl Liveness {
    /// Probes an endpoint every `interval`, or more rarely.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            schedules: HashMap::new(),
            agenda: BTreeSet::new(),
            pending: PendingRegisters::default(),
            undo: Vec::new(),
        }
    }

    /// Probes a topic from now on, since something has become known of its owner.
    pub(super) fn observe(&mut self, name: TopicName, schedule: ProbeSchedule) {
        self.set(name, Some(schedule));
    }

    /// Sets the schedule of a topic that was registered or removed.
    pub(super) fn replace(&mut self, name: &TopicName, schedule: Option<ProbeSchedule>) {
        let before = self.set(name.clone(), schedule);
        self.undo.push((name.clone(), before));
    }

    /// Keeps the changes of the batch.
    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Undoes the changes of the batch.
    pub(super) fn rollback(&mut self) {
        for (name, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.set(name, before);
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
        found_alive: bool,
        now: Instant,
    ) -> Option<Verdict> {
        let interval = self.interval;
        self.change(name, |schedule| {
            let is_expected = schedule.is_probing();
            is_expected.then(|| schedule.conclude(result, found_alive, now, interval))
        })?
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
        if let Some(schedule) = schedule {
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
mod tests {
    use super::*;
    use crate::registry::log::record::EvictionReason;
    use crate::registry::test_time::start;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn a_probe_is_due_at_once_and_then_after_the_interval() {
        let (mut liveness, now) = (Liveness::new(INTERVAL), start());
        liveness.observe(name("/a"), ProbeSchedule::unseen(now));
        assert_eq!((liveness.next_probe(), liveness.is_probing()), (Some(now), false));
        assert_eq!(liveness.take_due(now), [name("/a")]);
        assert_eq!((liveness.next_probe(), liveness.is_probing()), (None, true));
        let verdict = liveness.conclude(&name("/a"), ProbeResult::Alive, false, now);
        assert_eq!(verdict, Some(Verdict::FoundAlive));
        assert_eq!(liveness.next_probe(), Some(now + INTERVAL));
    }

    #[test]
    fn a_result_without_a_probe_under_way_decides_nothing() {
        let (mut liveness, now) = (Liveness::new(INTERVAL), start());
        assert_eq!(liveness.conclude(&name("/a"), ProbeResult::Dead, true, now), None);
        liveness.observe(name("/a"), ProbeSchedule::orphan(now));
        assert_eq!(liveness.conclude(&name("/a"), ProbeResult::Dead, true, now), None);
    }

    #[test]
    fn an_orphans_dead_endpoint_decides_at_once_and_an_unseen_owners_the_second_time() {
        let now = start();
        for (schedule, results, reason) in [
            (ProbeSchedule::orphan(now), 1, EvictionReason::OwnerExited),
            (ProbeSchedule::unseen(now), 2, EvictionReason::EndpointDead),
        ] {
            let mut liveness = Liveness::new(INTERVAL);
            liveness.observe(name("/a"), schedule);
            for count in 1..=results {
                let now = liveness.next_probe().unwrap();
                liveness.take_due(now);
                let verdict = liveness.conclude(&name("/a"), ProbeResult::Dead, true, now);
                let expected =
                    if count == results { Verdict::Evict(reason) } else { Verdict::Stays };
                assert_eq!(verdict, Some(expected));
            }
        }
    }

    #[test]
    fn a_rollback_brings_back_the_schedules_that_were_replaced() {
        let (mut liveness, now) = (Liveness::new(INTERVAL), start());
        liveness.observe(name("/a"), ProbeSchedule::unseen(now));
        liveness.replace(&name("/a"), None);
        liveness.replace(&name("/b"), Some(ProbeSchedule::unseen(now)));
        liveness.replace(&name("/b"), None);
        assert_eq!(liveness.next_probe(), None);
        liveness.rollback();
        assert_eq!(liveness.take_due(now), [name("/a")]);
    }

    #[test]
    fn a_rollback_leaves_no_schedule_for_a_topic_that_the_batch_has_registered() {
        let (mut liveness, now) = (Liveness::new(INTERVAL), start());
        // A process registers a topic and ends in the same batch.
        liveness.replace(&name("/a"), None);
        liveness.observe(name("/a"), ProbeSchedule::orphan(now));
        liveness.rollback();
        assert_eq!((liveness.next_probe(), liveness.is_probing()), (None, false));
    }

    #[test]
    fn a_probe_under_way_is_not_rescheduled() {
        let (mut liveness, now) = (Liveness::new(INTERVAL), start());
        liveness.observe(name("/a"), ProbeSchedule::unseen(now));
        liveness.take_due(now);
        liveness.reschedule(&name("/a"), now);
        liveness.reschedule(&name("/not probed"), now);
        assert_eq!(liveness.next_probe(), None);
    }
}
