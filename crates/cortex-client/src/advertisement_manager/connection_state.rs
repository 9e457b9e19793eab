//! Whether the daemon can be reached: when to connect, and for how long nobody has answered.

use std::time::{Duration, Instant};

/// The least time from one connection to the next.
const RECONNECT: Duration = Duration::from_millis(100);
/// When connections fail without a single answer: the pause before the third, which then doubles …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// … up to this.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The state of the connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: Phase,
    outage: Option<Outage>,
    /// Connections lost since the last answer.
    failures: u32,
    last_connect: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// None before this time.
    Down {
        until: Option<Instant>,
    },
    /// Under way.
    Connecting,
    Up,
}

/// For how long there has been no answer to be had.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    is_reported: bool,
}

/// What can be done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionAction {
    /// Make a new one.
    Connect,
    /// Nothing before this time, or before it is there.
    Wait(Option<Instant>),
    /// Ask.
    Send,
}

impl ConnectionState {
    pub(super) fn new() -> Self {
        let phase = Phase::Down { until: None };
        Self { phase, outage: None, failures: 0, last_connect: None }
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    pub(super) fn next_action(&mut self, now: Instant) -> ConnectionAction {
        match self.phase {
            Phase::Down { until: Some(at) } if now < at => ConnectionAction::Wait(Some(at)),
            Phase::Down { .. } => {
                self.phase = Phase::Connecting;
                self.last_connect = Some(now);
                ConnectionAction::Connect
            }
            Phase::Connecting => ConnectionAction::Wait(None),
            Phase::Up => ConnectionAction::Send,
        }
    }

    pub(super) fn connected(&mut self) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Up;
        }
    }

    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.outage = None;
    }

    /// The connection is of no use any more; what was asked `since` then stays unanswered.
    pub(super) fn lost(&mut self, since: Instant, now: Instant) {
        // Without an answer in between it is the same silence.
        if self.failures == 0 || self.outage.is_none() {
            self.outage = Some(Outage { since, is_reported: false });
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(MAX_PAUSE),
        };
        let earliest = self.last_connect.map_or(now, |last| last + RECONNECT);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Down { until: Some(earliest.max(now + pause)) };
    }

    /// From now on somebody waits for an answer. The first who does so begins a silence.
    pub(super) fn advertisement_added(&mut self, is_first: bool, now: Instant) {
        if is_first && !self.is_up() {
            self.outage = Some(Outage { since: now, is_reported: false });
        }
        // Whoever comes into a silence is told of it as well.
        if let Some(outage) = &mut self.outage {
            outage.is_reported = false;
        }
    }

    /// When it is to be told that nobody answers: after a silence of this length.
    pub(super) fn outage_deadline(&self, length: Duration) -> Option<Instant> {
        let outage = self.outage.filter(|outage| !outage.is_reported)?;
        Some(outage.since + length)
    }

    pub(super) fn outage_reported(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.is_reported = true;
        }
    }
}
