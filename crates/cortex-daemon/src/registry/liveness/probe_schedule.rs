//! Whether a topic's publisher still lives, where its process cannot tell: by its endpoint.
//!
//! | what is known of the process | what an endpoint's look can do |
//! |---|---|
//! | it is watched | nothing is looked at: a publisher that lives is never evicted |
//! | it is gone (orphan) | evicted when dead, or twice without a greeting: a forked child may hold the listener |
//! | it cannot be seen (unseen) | evicted when dead twice in a row, and only if it was once found alive: it may lie behind a firewall |
//!
//! What cannot be told never evicts.

use std::time::{Duration, Instant};

use crate::registry::{EvictionReason, ProbeResult};

/// The longest pause between two looks at an endpoint that neither greets nor refuses: each look
/// takes a slot of a stopped publisher's backlog, or of the daemon's own probes.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Looks in a row that must find the same before it counts.
const CONSECUTIVE_FAILURES: u32 = 2;

/// How a topic's endpoint is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct ProbeSchedule {
    kind: Kind,
    /// When the next look is due.
    due: Option<Instant>,
    /// A look is under way.
    probing: bool,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rest,
    Orphan { silent: u32 },
    Unseen { failures: u32 },
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Verdict {
    Stays,
    FoundAlive,
    Evict(EvictionReason),
}

impl ProbeSchedule {
    /// Nothing is to be looked at.
    pub(in crate::registry) fn rest() -> Self {
        Self { kind: Kind::Rest, due: None, probing: false, pause: Duration::ZERO }
    }

    /// The process cannot be seen. The first look, at once, is to find the endpoint alive.
    pub(in crate::registry) fn unseen(now: Instant) -> Self {
        Self { kind: Kind::Unseen { failures: 0 }, due: Some(now), ..Self::rest() }
    }

    /// The process is gone: the first look follows at once.
    pub(in crate::registry) fn orphan(now: Instant) -> Self {
        Self { kind: Kind::Orphan { silent: 0 }, due: Some(now), ..Self::rest() }
    }

    pub(in crate::registry) fn rests(&self) -> bool {
        self.kind == Kind::Rest
    }

    pub(in crate::registry) fn is_orphan(&self) -> bool {
        matches!(self.kind, Kind::Orphan { .. })
    }

    pub(in crate::registry) fn is_probing(&self) -> bool {
        self.probing
    }

    pub(in crate::registry) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Makes a look due now, unless one is under way or there is nothing to look at.
    pub(in crate::registry) fn hurry(&mut self, now: Instant) {
        if !self.probing && !self.rests() {
            self.due = Some(now);
        }
    }

    /// A look begins.
    pub(in crate::registry) fn begin(&mut self) {
        self.due = None;
        self.probing = true;
    }

    /// A look has shown something.
    pub(in crate::registry) fn found(
        &mut self,
        finding: ProbeResult,
        found_alive: bool,
        now: Instant,
        interval: Duration,
    ) -> Verdict {
        self.probing = false;
        let verdict = match &mut self.kind {
            Kind::Rest => return Verdict::Stays,
            Kind::Orphan { silent } => orphan_verdict(silent, finding),
            Kind::Unseen { failures } => unseen_verdict(failures, finding, found_alive),
        };
        self.pause = match finding {
            ProbeResult::Alive | ProbeResult::Dead => interval,
            // The second silence decides.
            ProbeResult::Silent if self.is_orphan() => interval,
            ProbeResult::Silent | ProbeResult::Unknown => {
                (self.pause * 2).clamp(interval, MAX_PAUSE.max(interval))
            }
        };
        self.due = Some(now + self.pause);
        verdict
    }
}

fn orphan_verdict(silent: &mut u32, finding: ProbeResult) -> Verdict {
    match finding {
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
        ProbeResult::Unknown => Verdict::Stays,
    }
}

fn unseen_verdict(failures: &mut u32, finding: ProbeResult, found_alive: bool) -> Verdict {
    match finding {
        ProbeResult::Dead if found_alive => {
            *failures += 1;
            if *failures >= CONSECUTIVE_FAILURES {
                Verdict::Evict(EvictionReason::EndpointDead)
            } else {
                Verdict::Stays
            }
        }
        ProbeResult::Silent | ProbeResult::Alive => {
            *failures = 0;
            Verdict::FoundAlive
        }
        ProbeResult::Dead | ProbeResult::Unknown => {
            *failures = 0;
            Verdict::Stays
        }
    }
}
