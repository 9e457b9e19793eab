//! When the daemon probes one topic's endpoint, and what follows from a result.
//!
//! | the owner's process | what the endpoint's probes decide |
//! |---|---|
//! | watched | the endpoint is not probed: the topic of a living publisher stays |
//! | ended (orphan) | evicted when dead, or when silent twice in a row: a forked child may hold the listener |
//! | unseen | evicted when dead twice in a row, and only if a probe once found it alive: it may lie behind a firewall |
//!
//! An endpoint that the daemon cannot judge never removes a topic.

use std::time::{Duration, Instant};

use crate::registry::input::ProbeResult;
use crate::registry::log::record::EvictionReason;

/// The longest pause between two probes of an endpoint that neither greets nor refuses: each probe
/// takes a slot of a stopped publisher's backlog, or of the daemon's own probes.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The equal results in a row that it takes to evict a topic.
const CONSECUTIVE_FAILURES: u32 = 2;

/// How the daemon probes an endpoint, and when next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct ProbeSchedule {
    owner: Owner,
    /// When the next probe is due.
    due: Option<Instant>,
    /// Whether a probe is under way.
    is_probing: bool,
    pause: Duration,
}

/// What the daemon knows of the owner's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Ended { silent: u32 },
    Unseen { dead: u32 },
}

/// What follows from a probe's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Verdict {
    Stays,
    FoundAlive,
    Evict(EvictionReason),
}

impl ProbeSchedule {
    /// For an owner that the daemon cannot see. The first probe is due now, to find the endpoint
    /// alive.
    pub(in crate::registry) fn unseen(now: Instant) -> Self {
        Self::new(Owner::Unseen { dead: 0 }, now)
    }

    /// For an owner whose process has ended. The first probe is due now.
    pub(in crate::registry) fn orphan(now: Instant) -> Self {
        Self::new(Owner::Ended { silent: 0 }, now)
    }

    fn new(owner: Owner, now: Instant) -> Self {
        Self { owner, due: Some(now), is_probing: false, pause: Duration::ZERO }
    }

    pub(super) fn is_probing(&self) -> bool {
        self.is_probing
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Makes a probe due at `when`, unless one is under way.
    pub(super) fn reschedule(&mut self, when: Instant) {
        if !self.is_probing {
            self.due = Some(when);
        }
    }

    /// Notes that a probe begins.
    pub(super) fn begin(&mut self) {
        self.due = None;
        self.is_probing = true;
    }

    /// Takes the result of a probe.
    pub(super) fn conclude(
        &mut self,
        result: ProbeResult,
        found_alive: bool,
        now: Instant,
        interval: Duration,
    ) -> Verdict {
        self.is_probing = false;
        let verdict = match &mut self.owner {
            Owner::Ended { silent } => judge_orphan(silent, result),
            Owner::Unseen { dead } => judge_unseen(dead, result, found_alive),
        };
        self.pause = match result {
            ProbeResult::Alive | ProbeResult::Dead => interval,
            // The second silence decides.
            ProbeResult::Silent if matches!(self.owner, Owner::Ended { .. }) => interval,
            ProbeResult::Silent | ProbeResult::Unreachable | ProbeResult::Unknown(_) => {
                (self.pause * 2).clamp(interval, MAX_PAUSE.max(interval))
            }
        };
        self.due = Some(now + self.pause);
        verdict
    }
}

fn judge_orphan(silent: &mut u32, result: ProbeResult) -> Verdict {
    match result {
        ProbeResult::Dead => Verdict::Evict(EvictionReason::OwnerExited),
        ProbeResult::Silent => {
            *silent += 1;
            if *silent >= CONSECUTIVE_FAILURES {
                Verdict::Evict(EvictionReason::OwnerExited)
            } else {
                Verdict::Stays
            }
        }
        ProbeResult::Alive => {
            *silent = 0;
            Verdict::FoundAlive
        }
        ProbeResult::Unreachable | ProbeResult::Unknown(_) => Verdict::Stays,
    }
}

fn judge_unseen(dead: &mut u32, result: ProbeResult, found_alive: bool) -> Verdict {
    match result {
        ProbeResult::Dead if found_alive => {
            *dead += 1;
            if *dead >= CONSECUTIVE_FAILURES {
                Verdict::Evict(EvictionReason::EndpointDead)
            } else {
                Verdict::Stays
            }
        }
        ProbeResult::Silent | ProbeResult::Alive => {
            *dead = 0;
            Verdict::FoundAlive
        }
        ProbeResult::Dead | ProbeResult::Unreachable | ProbeResult::Unknown(_) => {
            *dead = 0;
            Verdict::Stays
        }
    }
}
