//! How much memory the unread replies of all peers may take.

use crate::peer::ConnectionId;

/// The most memory for unread replies, in bytes.
const MAX_UNREAD: usize = 256 * 1024 * 1024;
/// The daemon counts the memory of unread replies again after this many more bytes.
const MEMORY_COUNT_STEP: usize = 32 * 1024 * 1024;

/// When the daemon counts the memory of unread replies.
#[derive(Debug)]
pub(super) struct UnreadMemory {
    /// The number of unsent bytes. A reply that several connections share counts for each of them,
    /// so this is an upper bound for the memory.
    unsent_bytes: usize,
    /// With this many unsent bytes the daemon counts their memory.
    next_count: usize,
}

impl UnreadMemory {
    pub(super) fn new() -> Self {
        Self { unsent_bytes: 0, next_count: MAX_UNREAD }
    }

    /// Notes that a connection's number of unsent bytes has changed.
    pub(super) fn change(&mut self, before: usize, after: usize) {
        self.unsent_bytes = self.unsent_bytes - before + after;
    }

    /// Whether the daemon must count the memory now.
    pub(super) fn must_count(&mut self) -> bool {
        if self.unsent_bytes >= self.next_count {
            return true;
        }
        self.next_count =
            (self.unsent_bytes + MEMORY_COUNT_STEP).clamp(MAX_UNREAD, self.next_count);
        false
    }

    /// Notes that the memory was counted, and the connections over the limit are closed.
    pub(super) fn counted(&mut self) {
        self.next_count = MAX_UNREAD.max(self.unsent_bytes + MEMORY_COUNT_STEP);
    }
}

/// The connections with the most memory, without which the others are within the limit.
pub(super) fn over_limit(
    mut memory: Vec<(usize, ConnectionId)>,
) -> impl Iterator<Item = (usize, ConnectionId)> {
    memory.sort_unstable();
    let mut total: usize = memory.iter().map(|(memory, _)| memory).sum();
    memory.into_iter().rev().take_while(move |(memory, _)| {
        let is_over = total > MAX_UNREAD;
        total -= memory;
        is_over
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_with_the_most_memory_are_over_the_limit() {
        let memory = |parts: &[usize]| {
            let of_limit = |(id, part): (usize, &usize)| (MAX_UNREAD / 8 * part, ConnectionId(id));
            over_limit(parts.iter().enumerate().map(of_limit).collect())
                .map(|(_, ConnectionId(id))| id)
                .collect::<Vec<_>>()
        };
        assert_eq!(memory(&[]), [0; 0]);
        assert_eq!(memory(&[1, 4, 3]), [0; 0]);
        assert_eq!(memory(&[1, 5, 3]), [1]);
        assert_eq!(memory(&[3, 6, 7]), [2, 1]);
    }

    #[test]
    fn the_memory_is_counted_again_after_a_step() {
        let mut unread = UnreadMemory::new();
        unread.change(0, MAX_UNREAD - 1);
        assert!(!unread.must_count());
        unread.change(0, 1);
        assert!(unread.must_count());
        unread.counted();
        assert!(!unread.must_count());
        unread.change(0, MEMORY_COUNT_STEP);
        assert!(unread.must_count());
        unread.change(MAX_UNREAD, 0);
        assert!(!unread.must_count());
        unread.change(0, MAX_UNREAD - MEMORY_COUNT_STEP);
        assert!(unread.must_count(), "the limit holds again");
    }
}
