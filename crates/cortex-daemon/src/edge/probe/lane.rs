//! The order in which waiting probes start, and how many of them run at once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::outcome::ProbeId;

/// Probes that share a resource. Those with less patience start first, and a quarter of the places
/// is for them alone: silent endpoints must not delay a REGISTER that waits.
#[derive(Debug)]
pub(super) struct Lane {
    waiting: BTreeSet<(Duration, ProbeId)>,
    running: usize,
    limit: usize,
    ordinary: Duration,
}

impl Lane {
    /// At most `limit` probes at once, at least one. Less patience than `ordinary` comes first.
    pub(super) fn new(limit: usize, ordinary: Duration) -> Self {
        Self { waiting: BTreeSet::new(), running: 0, limit: limit.max(1), ordinary }
    }

    pub(super) fn push(&mut self, id: ProbeId, patience: Duration) {
        self.waiting.insert((patience, id));
    }

    pub(super) fn remove(&mut self, id: ProbeId, patience: Duration) {
        self.waiting.remove(&(patience, id));
    }

    /// Whether [`pop`](Self::pop) returns a probe.
    pub(super) fn can_start(&self) -> bool {
        let reserved = if self.limit > 1 { (self.limit / 4).max(1) } else { 0 };
        self.waiting.first().is_some_and(|&(patience, _)| {
            let reserved = if patience < self.ordinary { 0 } else { reserved };
            self.running < self.limit - reserved
        })
    }

    /// The next probe, if it may start. It runs until [`finish`](Self::finish).
    pub(super) fn pop(&mut self) -> Option<ProbeId> {
        if !self.can_start() {
            return None;
        }
        self.running += 1;
        self.waiting.pop_first().map(|(_, id)| id)
    }

    /// Notes that a running probe has ended.
    pub(super) fn finish(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

#[cfg(test)]
impl Lane {
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDINARY: Duration = Duration::from_secs(1);
    const SHORT: Duration = Duration::from_millis(250);

    #[test]
    fn a_quarter_is_for_those_with_less_patience() {
        for (limit, ordinary) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (64, 48)] {
            let mut lane = Lane::new(limit, ORDINARY);
            for id in 0..100 {
                lane.push(ProbeId(id), ORDINARY);
            }
            let started: Vec<_> = std::iter::from_fn(|| lane.pop()).collect();
            assert_eq!(started, (0..ordinary).map(ProbeId).collect::<Vec<_>>(), "of {limit}");
            for id in 100..200 {
                lane.push(ProbeId(id), SHORT);
            }
            let started = std::iter::from_fn(|| lane.pop()).count() as u64;
            assert_eq!(started, (limit.max(1) as u64) - ordinary, "of {limit}");
            for _ in 0..limit.max(1) {
                lane.finish();
            }
            assert_eq!(lane.pop(), Some(ProbeId(100 + started)), "before the ordinary ones");
        }
    }

    #[test]
    fn a_removed_probe_does_not_start() {
        let mut lane = Lane::new(4, ORDINARY);
        lane.push(ProbeId(1), ORDINARY);
        lane.remove(ProbeId(1), ORDINARY);
        assert!(!lane.can_start());
        assert_eq!(lane.pop(), None);
    }
}
