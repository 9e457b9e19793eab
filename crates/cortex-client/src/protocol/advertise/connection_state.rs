//! The state of the connection: when to connect, and for how long the daemon has not answered.

use std::time::{Duration, Instant};

/// The shortest time between two connections.
const RECONNECT: Duration = Duration::from_millis(100);
/// The first pause after two connections without an answer; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The state of the connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: Phase,
    outage: Option<Outage>,
    /// The connections lost since the last answer.
    failures: u32,
    last_connect: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection before this time.
    Down {
        until: Option<Instant>,
    },
    Connecting,
    Up,
}

/// A time without answers.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    is_reported: bool,
}

/// What the manager does with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionAction {
    /// Make a new connection.
    Connect,
    /// Wait until this time, or until the connection is up.
    Wait(Option<Instant>),
    /// Send the next request.
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

    /// The connection failed. A request from the time `since` stays unanswered.
    pub(super) fn lost(&mut self, since: Instant, now: Instant) {
        // Without an answer in between it is the same outage.
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

    /// An advertisement waits for an answer from now on. The first one begins an outage.
    pub(super) fn advertisement_added(&mut self, is_first: bool, now: Instant) {
        if is_first && !self.is_up() {
            self.outage = Some(Outage { since: now, is_reported: false });
        }
        // A new advertisement during an outage gets a report of it as well.
        if let Some(outage) = &mut self.outage {
            outage.is_reported = false;
        }
    }

    /// When to report the outage: after this length. `None` without an unreported outage.
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
