//! What becomes of topics whose publishers end, cannot be seen, or are looked at.

use std::time::Instant;

use cortex_proto::TopicName;

use crate::peer::Process;
use crate::registry::directory::topics::Entry;
use crate::registry::liveness::pending_registers::{Awaits, Patience};
use crate::registry::liveness::probe_schedule::{ProbeSchedule, Verdict};
use crate::registry::{Hold, ProbeRequest, ProbeResult, Registry, Timestamp, Write};

impl Registry {
    /// The process is gone: its topics stay only as far as their endpoints live.
    pub(in crate::registry) fn orphan(&mut self, process: Process, now: Timestamp) {
        for name in self.owners.forget(process) {
            self.watch_endpoint(&name, ProbeSchedule::orphan(now.instant));
        }
        self.begin_probes(now);
    }

    /// The process cannot be watched: its topics' endpoints must tell.
    pub(in crate::registry) fn lose_sight(&mut self, process: Process, now: Timestamp) {
        for name in self.owners.lose_sight(process) {
            self.watch_endpoint(&name, ProbeSchedule::unseen(now.instant));
        }
        self.begin_probes(now);
    }

    fn watch_endpoint(&mut self, name: &TopicName, probes: ProbeSchedule) {
        self.reschedule(name, |entry| entry.probes = probes);
    }

    pub(in crate::registry) fn probed(
        &mut self,
        name: &TopicName,
        revision: u64,
        finding: ProbeResult,
        now: Timestamp,
    ) {
        let interval = self.settings.probe_interval;
        let verdict = self.reschedule(name, |entry| {
            if entry.revision != revision || !entry.probes.is_probing() {
                return None;
            }
            let found_alive = entry.found_alive;
            Some(entry.probes.found(finding, found_alive, now.instant, interval))
        });
        match verdict.flatten() {
            // A late result, for a registration that is no more.
            None => return,
            Some(Verdict::Stays) => {}
            Some(Verdict::FoundAlive) => self.note_alive(name),
            Some(Verdict::Evict(reason)) => self.evict(name, reason, now),
        }
        self.retry_pending_registers(
            |pending| pending.awaits == Awaits::Probe && pending.name == *name,
            Patience::Left,
            now,
        );
    }

    /// Asks for the looks that are due: at endpoints, and at the processes that are not watched.
    pub(in crate::registry) fn begin_probes(&mut self, now: Timestamp) {
        while let Some((due, name)) = self.agenda.first().cloned()
            && due <= now.instant
        {
            let looks = self.reschedule(&name, |entry| {
                entry.probes.begin();
                let address = entry.info.address.clone();
                let (name, revision) = (entry.info.name.clone(), entry.revision);
                (entry.living_process(), ProbeRequest { name, revision, address })
            });
            self.agenda.remove(&(due, name));
            if let Some((process, probe)) = looks {
                self.effects.check.extend(process);
                self.effects.probe.push(probe);
            }
        }
    }

    /// Remembers that an endpoint was found alive, also beyond a restart.
    fn note_alive(&mut self, name: &TopicName) {
        let Some(entry) = self.topics.get_mut(name.as_str()) else { return };
        if entry.found_alive {
            return;
        }
        let before = entry.clone();
        entry.found_alive = true;
        let write = Write { name: name.clone(), record: Some(entry.record()), event: None };
        self.stage(Some(before.into()), None, write);
    }

    /// How the endpoint of a new entry is looked after.
    pub(in crate::registry) fn probe_schedule_for(
        &self,
        hold: &Hold,
        owner: Option<Process>,
        now: Instant,
    ) -> ProbeSchedule {
        let is_seen = owner.is_some_and(|process| !self.owners.is_unseen(process));
        if *hold == Hold::Process && !is_seen {
            ProbeSchedule::unseen(now)
        } else {
            ProbeSchedule::rest()
        }
    }

    /// Changes how an entry's endpoint is looked after, and the agenda with it.
    pub(in crate::registry) fn reschedule<T>(
        &mut self,
        name: &TopicName,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let entry = self.topics.get_mut(name.as_str())?;
        let before = entry.probes.due();
        let result = change(entry);
        let after = entry.probes.due();
        if before != after {
            before.map(|due| self.agenda.remove(&(due, name.clone())));
            after.map(|due| self.agenda.insert((due, name.clone())));
        }
        Some(result)
    }
}
