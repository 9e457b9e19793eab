//! When the daemon probes one topic's endpoint, and what follows from a result.
//!
//! | the owner | why the endpoint is probed | what follows |
//! |---|---|---|
//! | lives | after the registration, until it is served | the listener is recorded as evidence for later |
//! | lives, after a restart of the daemon | the publisher may have closed its socket meanwhile | evicted when dead twice |
//! | has ended (orphan) | another process may serve the endpoint | evicted unless there is [evidence](super::evidence) |
//! | is unseen | only the endpoint can tell | evicted when dead twice, if it was once alive; or when unreachable for long |

use std::time::{Duration, Instant};

use super::evidence::{Evidence, Registration, judge};
use crate::peer::EndpointListener;
use crate::registry::input::{ProbeResult, UnknownReason};
use crate::registry::log::record::EvictionReason;

/// The pause from a registration to the probe that records the listener: short, since a newcomer may
/// take the endpoint of an owner that ends at once. A topic that is unregistered at once is not
/// probed.
const RECORD_DELAY: Duration = Duration::from_millis(3);
/// The most probes that look for the listener, which the owner may bind after the registration. The
/// pause before the next one is ten times the one before.
const MAX_RECORD_PROBES: u32 = 4;
/// The pause between the two probes that must both find an endpoint dead.
pub(super) const CONFIRM_PAUSE: Duration = Duration::from_millis(150);
/// The same after a restart of the daemon, which waits for both.
const RESTORE_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two probes of an endpoint that neither greets nor refuses: each probe
/// takes a slot of a stopped publisher's backlog, or of the daemon's own probes.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// An orphaned TCP endpoint that is silent for so long counts as dead. An endpoint that cannot be
/// reached for so long is unreachable.
const PATIENCE: Duration = Duration::from_secs(30);
/// The equal results in a row that it takes to evict the topic of an owner that may live.
const CONSECUTIVE_FAILURES: u32 = 2;

/// How the daemon probes an endpoint, and when next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct ProbeSchedule {
    purpose: Purpose,
    /// When the next probe is due; `None` while one is under way, and when none follows.
    due: Option<Instant>,
    is_probing: bool,
    pause: Duration,
    /// The last result.
    result: Option<ProbeResult>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    RecordListener { probes: u32 },
    Restored { dead: u32 },
    Orphaned { silent_since: Option<Instant> },
    Unseen { dead: u32, unreachable_since: Option<Instant> },
}

/// What follows from a probe's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Verdict {
    Stays,
    /// The endpoint is served, by this listener if it is known.
    Served(Option<EndpointListener>),
    Evict(EvictionReason),
}

/// The pauses that an operator may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pauses {
    /// The pause between two probes of an endpoint.
    pub(super) interval: Duration,
    /// How long an unreachable endpoint keeps its topic; `None` for ever.
    pub(super) unreachable_after: Option<Duration>,
}

impl ProbeSchedule {
    /// For a living owner: one probe records the listener.
    pub(in crate::registry) fn record_listener(now: Instant) -> Self {
        Self::new(Purpose::RecordListener { probes: 0 }, now + RECORD_DELAY)
    }

    /// For a restored topic whose endpoint was alive.
    pub(in crate::registry) fn restored(now: Instant) -> Self {
        Self::new(Purpose::Restored { dead: 0 }, now)
    }

    /// For an owner whose process has ended.
    pub(in crate::registry) fn orphaned(now: Instant) -> Self {
        Self::new(Purpose::Orphaned { silent_since: None }, now)
    }

    /// For an owner that the daemon cannot see.
    pub(in crate::registry) fn unseen(now: Instant) -> Self {
        Self::new(Purpose::Unseen { dead: 0, unreachable_since: None }, now)
    }

    fn new(purpose: Purpose, due: Instant) -> Self {
        Self { purpose, due: Some(due), is_probing: false, pause: Duration::ZERO, result: None }
    }

    pub(super) fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// Whether no probe is due or under way.
    pub(super) fn is_over(&self) -> bool {
        self.due.is_none() && !self.is_probing
    }

    pub(super) fn is_for_orphan(&self) -> bool {
        matches!(self.purpose, Purpose::Orphaned { .. })
    }

    /// Whether the endpoint could not be reached for so long that its name is free.
    pub(super) fn is_unreachable(&self, now: Instant) -> bool {
        match self.purpose {
            Purpose::Unseen { unreachable_since: Some(since), .. } => now >= since + PATIENCE,
            Purpose::Unseen { .. }
            | Purpose::RecordListener { .. }
            | Purpose::Restored { .. }
            | Purpose::Orphaned { .. } => false,
        }
    }

    /// The last result that the schedule has seen.
    pub(super) fn last_result(&self) -> Option<ProbeResult> {
        self.result
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

    /// Makes the probe due again that is under way, if one is.
    pub(super) fn begin_again(&mut self, now: Instant) {
        if self.is_probing {
            self.is_probing = false;
            self.due = Some(now);
        }
    }

    /// Forgets for how long the endpoint could not be reached: time has passed in which the daemon
    /// did not look.
    pub(super) fn time_gap(&mut self) {
        if let Purpose::Unseen { unreachable_since, .. } = &mut self.purpose {
            *unreachable_since = None;
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
        listener: Option<EndpointListener>,
        registration: &Registration,
        now: Instant,
        pauses: Pauses,
    ) -> Verdict {
        self.is_probing = false;
        self.result = Some(result);
        let is_served = matches!(result, ProbeResult::Alive | ProbeResult::Silent);
        let served = if is_served { Verdict::Served(listener) } else { Verdict::Stays };
        match &mut self.purpose {
            Purpose::RecordListener { probes } => {
                *probes += 1;
                let is_over = is_served || *probes >= MAX_RECORD_PROBES;
                self.due = (!is_over).then(|| now + RECORD_DELAY * 10_u32.pow(*probes));
                served
            }
            Purpose::Restored { dead } => match result {
                ProbeResult::Dead => {
                    *dead += 1;
                    if *dead >= CONSECUTIVE_FAILURES {
                        return Verdict::Evict(EvictionReason::EndpointDead);
                    }
                    self.due = Some(now + RESTORE_PAUSE);
                    Verdict::Stays
                }
                ProbeResult::Unknown(UnknownReason::Failure) => {
                    self.due = Some(now + pauses.interval);
                    Verdict::Stays
                }
                ProbeResult::Alive
                | ProbeResult::Silent
                | ProbeResult::Unreachable
                | ProbeResult::Unknown(_) => served,
            },
            Purpose::Orphaned { silent_since } => {
                let verdict = match judge(registration, result, listener) {
                    Evidence::Served => {
                        *silent_since = None;
                        Verdict::Served(listener)
                    }
                    Evidence::Silent => {
                        let since = *silent_since.get_or_insert(now);
                        if now < since + PATIENCE {
                            Verdict::Served(listener)
                        } else {
                            Verdict::Evict(EvictionReason::OwnerExited)
                        }
                    }
                    Evidence::None => Verdict::Evict(EvictionReason::OwnerExited),
                };
                self.due = Some(now + pauses.interval);
                verdict
            }
            Purpose::Unseen { .. } => {
                let verdict = self.conclude_unseen(result, registration, now, pauses);
                self.pause = self.next_pause(result, pauses);
                self.due = Some(now + self.pause);
                if verdict == Verdict::Stays { served } else { verdict }
            }
        }
    }

    fn conclude_unseen(
        &mut self,
        result: ProbeResult,
        registration: &Registration,
        now: Instant,
        pauses: Pauses,
    ) -> Verdict {
        let Purpose::Unseen { dead, unreachable_since } = &mut self.purpose else {
            return Verdict::Stays;
        };
        match result {
            ProbeResult::Dead if registration.found_alive => *dead += 1,
            ProbeResult::Dead
            | ProbeResult::Alive
            | ProbeResult::Silent
            | ProbeResult::Unreachable
            | ProbeResult::Unknown(_) => *dead = 0,
        }
        match result {
            ProbeResult::Unreachable => {
                unreachable_since.get_or_insert(now);
            }
            // The daemon could not look: nothing has changed.
            ProbeResult::Unknown(UnknownReason::Failure) => {}
            ProbeResult::Alive
            | ProbeResult::Silent
            | ProbeResult::Dead
            | ProbeResult::Unknown(_) => *unreachable_since = None,
        }
        let is_over = unreachable_since
            .zip(pauses.unreachable_after)
            .is_some_and(|(since, after)| now >= since + after);
        if *dead >= CONSECUTIVE_FAILURES || is_over || registration.is_taken_over {
            return Verdict::Evict(EvictionReason::EndpointDead);
        }
        Verdict::Stays
    }

    fn next_pause(&self, result: ProbeResult, pauses: Pauses) -> Duration {
        let interval = pauses.interval;
        match result {
            ProbeResult::Alive | ProbeResult::Dead | ProbeResult::Unreachable => interval,
            ProbeResult::Silent | ProbeResult::Unknown(_) => {
                (self.pause * 2).clamp(interval, MAX_PAUSE.max(interval))
            }
        }
    }
}
