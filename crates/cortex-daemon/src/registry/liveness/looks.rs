//! Looks at the owner of a topic, for REGISTERs of its name that would be refused otherwise.
//!
//! A look's results count for these REGISTERs alone: no peer can hurry an eviction with them.

use std::collections::HashMap;
use std::time::Instant;

use cortex_proto::TopicName;

use super::probe_schedule::CONFIRM_PAUSE;
use crate::peer::Process;
use crate::registry::input::ProbeResult;

/// What a look waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Awaits {
    /// A check of the owner's process.
    ProcessCheck(Process),
    /// The verdict of an orphan's probe schedule.
    OrphanVerdict,
    /// A probe of the endpoint, which must find it dead twice.
    Probe { dead: u32 },
    /// The time for the second probe.
    Pause { until: Instant },
}

/// What a probe's result means for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum LookResult {
    /// The look goes on.
    Undecided,
    /// The endpoint is served or cannot be judged: the name is taken.
    Taken,
    /// The endpoint is dead: the name is free.
    Free,
}

/// The looks under way, at most one for each topic: later REGISTERs of the name share it.
#[derive(Debug, Default)]
pub(in crate::registry) struct Looks(HashMap<TopicName, Awaits>);

impl Looks {
    pub(in crate::registry) fn get(&self, name: &TopicName) -> Option<Awaits> {
        self.0.get(name).copied()
    }

    pub(in crate::registry) fn set(&mut self, name: TopicName, awaits: Awaits) {
        self.0.insert(name, awaits);
    }

    pub(in crate::registry) fn end(&mut self, name: &TopicName) {
        self.0.remove(name);
    }

    /// The topics whose look waits for a check of this process.
    pub(in crate::registry) fn awaiting_check(&self, process: Process) -> Vec<TopicName> {
        let waits = |awaits: &Awaits| *awaits == Awaits::ProcessCheck(process);
        self.0.iter().filter(|(_, awaits)| waits(awaits)).map(|(name, _)| name.clone()).collect()
    }

    /// Takes a result of a probe of this topic's endpoint.
    pub(in crate::registry) fn probed(
        &mut self,
        name: &TopicName,
        result: ProbeResult,
        now: Instant,
    ) -> LookResult {
        let Some(awaits) = self.0.get_mut(name) else { return LookResult::Undecided };
        let Awaits::Probe { dead } = *awaits else { return LookResult::Undecided };
        match (result, dead) {
            (ProbeResult::Dead, 0) => {
                *awaits = Awaits::Pause { until: now + CONFIRM_PAUSE };
                LookResult::Undecided
            }
            (ProbeResult::Dead, _) => LookResult::Free,
            _ => LookResult::Taken,
        }
    }

    /// The topics whose second probe is due. They now wait for it.
    pub(in crate::registry) fn take_due(&mut self, now: Instant) -> Vec<TopicName> {
        let mut due = Vec::new();
        for (name, awaits) in &mut self.0 {
            if matches!(*awaits, Awaits::Pause { until } if until <= now) {
                *awaits = Awaits::Probe { dead: 1 };
                due.push(name.clone());
            }
        }
        due
    }

    pub(in crate::registry) fn next_due(&self) -> Option<Instant> {
        let due = |awaits: &Awaits| match awaits {
            Awaits::Pause { until } => Some(*until),
            Awaits::ProcessCheck(_) | Awaits::OrphanVerdict | Awaits::Probe { .. } => None,
        };
        self.0.values().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::input::UnknownReason;
    use crate::registry::test_time::start;

    fn name() -> TopicName {
        TopicName::new("/a").unwrap()
    }

    #[test]
    fn a_name_is_free_after_two_dead_probes_some_time_apart() {
        let (mut looks, now) = (Looks::default(), start());
        looks.set(name(), Awaits::Probe { dead: 0 });
        assert_eq!(looks.probed(&name(), ProbeResult::Dead, now), LookResult::Undecided);
        assert_eq!(
            looks.probed(&name(), ProbeResult::Dead, now),
            LookResult::Undecided,
            "too early"
        );
        assert_eq!(looks.next_due(), Some(now + CONFIRM_PAUSE));
        assert_eq!(looks.take_due(now), []);
        assert_eq!(looks.take_due(now + CONFIRM_PAUSE), [name()]);
        assert_eq!(looks.probed(&name(), ProbeResult::Dead, now), LookResult::Free);
    }

    #[test]
    fn any_other_result_keeps_the_name() {
        for result in [
            ProbeResult::Alive,
            ProbeResult::Silent,
            ProbeResult::Unreachable,
            ProbeResult::Unknown(UnknownReason::Namespace),
        ] {
            let mut looks = Looks::default();
            looks.set(name(), Awaits::Probe { dead: 0 });
            assert_eq!(looks.probed(&name(), result, start()), LookResult::Taken);
        }
    }
}
