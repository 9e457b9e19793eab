//! Whether the host of a TCP peer that takes no more bytes still answers the kernel.
//!
//! The host of a peer that reads nothing answers every zero-window probe. A host that is gone
//! answers neither probes nor retransmissions, and the kernel counts them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::tcp_table::{self, SendCounters};
use crate::peer::ConnectionId;

/// The time between two checks, while a TCP connection is blocked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// A host is gone when all checks of this time have found no answer.
const MAX_UNANSWERED: Duration = Duration::from_secs(30);

/// A TCP connection whose send buffer is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockedPeer {
    pub(super) id: ConnectionId,
    pub(super) inode: u64,
    /// When something last came from the peer.
    pub(super) heard_at: Instant,
}

/// The checks of all blocked TCP connections.
#[derive(Debug, Default)]
pub(super) struct BlockedPeerChecks {
    next_due: Option<Instant>,
    unanswered: HashMap<ConnectionId, Unanswered>,
}

/// Successive checks of one connection that have found no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unanswered {
    /// The time and the counters of the first of these checks.
    since: Instant,
    first: SendCounters,
    /// The counters of the last check.
    last: SendCounters,
}

impl Unanswered {
    /// After a further check. `None` if the host has answered.
    fn after(
        before: Option<Self>,
        found: SendCounters,
        heard_at: Instant,
        now: Instant,
    ) -> Option<Self> {
        if found.unanswered == 0 {
            return None;
        }
        let is_same = |before: &Self| {
            heard_at <= before.since
                && found.unacknowledged == before.last.unacknowledged
                && found.unanswered >= before.last.unanswered
        };
        let new = Self { since: now, first: found, last: found };
        Some(before.filter(is_same).map_or(new, |before| Self { last: found, ..before }))
    }

    /// One unanswered probe is not enough: it may be lost, and the next may follow two minutes
    /// later. So the number must have grown.
    fn is_host_gone(&self, now: Instant) -> bool {
        now >= self.since + MAX_UNANSWERED && self.last.unanswered > self.first.unanswered
    }
}

impl BlockedPeerChecks {
    /// Notes that a TCP connection is blocked.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next_due.get_or_insert(now + CHECK_INTERVAL);
    }

    /// When the next check is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// Whether a check is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_due.is_some_and(|due| due <= now)
    }

    /// Checks all blocked connections, and returns those to hosts that are gone. A connection that
    /// the kernel's tables do not have is not checked.
    pub(super) fn check(&mut self, blocked: &[BlockedPeer], now: Instant) -> Vec<ConnectionId> {
        let counters = read_counters(blocked);
        self.update(blocked, &counters, now)
    }

    fn update(
        &mut self,
        blocked: &[BlockedPeer],
        counters: &HashMap<u64, SendCounters>,
        now: Instant,
    ) -> Vec<ConnectionId> {
        self.next_due = (!blocked.is_empty()).then_some(now + CHECK_INTERVAL);
        let mut before = std::mem::take(&mut self.unanswered);
        self.unanswered.extend(blocked.iter().filter_map(|peer| {
            let found = *counters.get(&peer.inode)?;
            let after = Unanswered::after(before.remove(&peer.id), found, peer.heard_at, now)?;
            Some((peer.id, after))
        }));
        let is_gone = |(id, unanswered): (&ConnectionId, &Unanswered)| {
            unanswered.is_host_gone(now).then_some(*id)
        };
        self.unanswered.iter().filter_map(is_gone).collect()
    }
}

/// Reads the kernel's tables once for all sockets, by their inodes.
fn read_counters(blocked: &[BlockedPeer]) -> HashMap<u64, SendCounters> {
    let inodes: HashSet<u64> = blocked.iter().map(|peer| peer.inode).collect();
    // `take` ends the reading when all are found.
    ["tcp", "tcp6"]
        .into_iter()
        .flat_map(tcp_table::sockets)
        .filter(|socket| inodes.contains(&socket.inode))
        .map(|socket| (socket.inode, socket.sending))
        .take(inodes.len())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: u64 = 7;
    const ID: ConnectionId = ConnectionId(1);

    /// One blocked connection, checked every 10 s.
    struct Checked {
        checks: BlockedPeerChecks,
        start: Instant,
        heard_at: Instant,
        seconds: u64,
    }

    impl Checked {
        fn new() -> Self {
            let start = super::super::clock::now();
            Self { checks: BlockedPeerChecks::default(), start, heard_at: start, seconds: 0 }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_secs(self.seconds)
        }

        /// The results of checks that find these numbers of unacknowledged bytes and of unanswered
        /// probes.
        fn check(&mut self, found: &[(u32, u32)]) -> Vec<bool> {
            let check = |&(unacknowledged, unanswered): &(u32, u32)| {
                self.seconds += 10;
                let now = self.now();
                let peer = BlockedPeer { id: ID, inode: INODE, heard_at: self.heard_at };
                let counters = SendCounters { unacknowledged, unanswered };
                let gone = self.checks.update(&[peer], &[(INODE, counters)].into(), now);
                gone == [ID]
            };
            found.iter().map(check).collect()
        }
    }

    #[test]
    fn a_host_without_answers_for_30_s_is_gone() {
        let found = [(9, 0), (9, 1), (9, 2), (9, 3), (9, 3)];
        assert_eq!(Checked::new().check(&found), [false, false, false, false, true]);
    }

    #[test]
    fn a_host_that_answers_probes_is_there() {
        let always = [(9, 0); 100];
        assert_eq!(Checked::new().check(&always), [false; 100]);
        let mut now_and_then = Checked::new();
        for _ in 0..20 {
            assert_eq!(now_and_then.check(&[(9, 2), (9, 3), (9, 1)]), [false; 3]);
        }
    }

    #[test]
    fn one_lost_probe_is_not_enough() {
        let mut checked = Checked::new();
        assert_eq!(checked.check(&[(9, 1); 12]), [false; 12]);
        assert_eq!(checked.check(&[(9, 2)]), [true], "two in succession are");
    }

    #[test]
    fn a_host_that_acknowledges_bytes_is_there() {
        let slow = (0..50).map(|check| (1000 - check, 1 + check)).collect::<Vec<_>>();
        assert_eq!(Checked::new().check(&slow), [false; 50]);
    }

    #[test]
    fn a_host_from_which_something_comes_is_there() {
        let mut checked = Checked::new();
        for unanswered in 1..50 {
            checked.heard_at = checked.now() + Duration::from_secs(1);
            assert_eq!(checked.check(&[(9, unanswered)]), [false]);
        }
    }

    #[test]
    fn a_connection_that_was_not_blocked_or_not_found_begins_anew() {
        for is_blocked in [false, true] {
            let mut checked = Checked::new();
            checked.check(&[(9, 1), (9, 2), (9, 3)]);
            let now = checked.now();
            let peer = BlockedPeer { id: ID, inode: INODE, heard_at: now };
            let blocked = if is_blocked { &[peer][..] } else { &[] };
            assert_eq!(checked.checks.update(blocked, &HashMap::new(), now), []);
            assert_eq!(checked.check(&[(9, 4), (9, 5), (9, 6)]), [false; 3]);
            assert_eq!(checked.check(&[(9, 7)]), [true]);
        }
    }

    #[test]
    fn checks_are_due_while_a_connection_is_blocked() {
        let mut checked = Checked::new();
        assert_eq!(checked.checks.next_due(), None);
        let start = checked.start;
        checked.checks.begin(start);
        checked.checks.begin(start + Duration::from_secs(1));
        let due = start + CHECK_INTERVAL;
        assert_eq!(checked.checks.next_due(), Some(due));
        assert!(!checked.checks.is_due(start) && checked.checks.is_due(due));
        checked.check(&[(9, 0)]);
        assert_eq!(checked.checks.next_due(), Some(checked.now() + CHECK_INTERVAL));
        checked.checks.check(&[], checked.now());
        assert_eq!(checked.checks.next_due(), None);
    }
}
