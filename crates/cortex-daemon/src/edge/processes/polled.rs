//! Processes that the daemon has no pidfd of: it looks at them once a second.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::peer::Process;

/// The time in which the daemon looks at each process once.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The pause before the next look while a process is known to be ending.
const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// The most processes to look at in one round, so that they do not delay the clients.
const MAX_ROUND: usize = 256;
/// The most processes that are polled at once.
const MAX_POLLED: usize = 4096;

/// The polled processes, and the turn of each.
#[derive(Debug, Default)]
pub(super) struct PolledProcesses {
    processes: BTreeSet<Process>,
    /// The last process of the round before.
    last: Option<Process>,
    next_round: Option<Instant>,
}

impl PolledProcesses {
    pub(super) fn len(&self) -> usize {
        self.processes.len()
    }

    pub(super) fn contains(&self, process: Process) -> bool {
        self.processes.contains(&process)
    }

    /// Polls a process from now on. False: there are too many already.
    pub(super) fn add(&mut self, process: Process, now: Instant) -> bool {
        if self.processes.len() >= MAX_POLLED {
            return false;
        }
        self.processes.insert(process);
        self.next_round.get_or_insert(now + POLL_INTERVAL);
        true
    }

    pub(super) fn remove(&mut self, process: Process) {
        self.processes.remove(&process);
        if self.processes.is_empty() {
            self.next_round = None;
        }
    }

    /// Makes the next round come soon, and begin with this process.
    pub(super) fn hurry(&mut self, process: Process, now: Instant) {
        self.last = self.processes.range(..process).next_back().copied();
        self.next_round = self.next_round.map(|due| due.min(now + SHORT_PAUSE));
    }

    pub(super) fn next_round(&self) -> Option<Instant> {
        self.next_round
    }

    /// The processes to look at, when a round is due.
    pub(super) fn take_round(&mut self, now: Instant) -> Vec<Process> {
        if self.next_round.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let rounds = self.processes.len().div_ceil(MAX_ROUND).max(1);
        let pause = POLL_INTERVAL / u32::try_from(rounds).unwrap_or(u32::MAX);
        self.next_round = Some(now + pause);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.processes.range((after, Bound::Unbounded));
        let round: Vec<_> = rest
            .chain(&self.processes)
            .take(MAX_ROUND.min(self.processes.len()))
            .copied()
            .collect();
        self.last = round.last().copied();
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Process {
        Process { pid, start_time: 1 }
    }

    #[test]
    fn every_process_has_its_turn_within_a_second() {
        let start = Instant::now();
        let mut polled = PolledProcesses::default();
        assert_eq!(polled.next_round(), None);
        for pid in 0..1000 {
            assert!(polled.add(process(pid), start));
        }
        assert_eq!(polled.take_round(start), []);
        let mut seen = BTreeSet::new();
        let mut now = start;
        for _ in 0..4 {
            now = polled.next_round().unwrap();
            let round = polled.take_round(now);
            assert!(round.len() <= MAX_ROUND);
            seen.extend(round);
        }
        assert_eq!(seen.len(), 1000);
        assert!(now <= start + POLL_INTERVAL * 2);
    }

    #[test]
    fn a_process_that_is_ending_comes_first() {
        let start = Instant::now();
        let mut polled = PolledProcesses::default();
        for pid in 0..1000 {
            polled.add(process(pid), start);
        }
        polled.hurry(process(900), start);
        assert_eq!(polled.next_round(), Some(start + SHORT_PAUSE));
        assert_eq!(polled.take_round(start + SHORT_PAUSE)[0], process(900));
    }

    #[test]
    fn without_processes_no_round_is_due() {
        let start = Instant::now();
        let mut polled = PolledProcesses::default();
        polled.add(process(1), start);
        polled.remove(process(1));
        assert_eq!((polled.next_round(), polled.len()), (None, 0));
    }

    #[test]
    fn the_number_is_bounded() {
        let start = Instant::now();
        let mut polled = PolledProcesses::default();
        let added = (0..5000).filter(|&pid| polled.add(process(pid), start)).count();
        assert_eq!(added, MAX_POLLED);
    }
}
