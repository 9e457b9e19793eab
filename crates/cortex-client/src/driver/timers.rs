//! When to poll each operation again.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// At most one time for each operation.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, u64)>,
    by_operation: HashMap<u64, Instant>,
}

impl Timers {
    /// Sets the time of an operation, in place of an earlier one.
    pub(super) fn set(&mut self, operation: u64, at: Option<Instant>) {
        let previous = match at {
            Some(at) => self.by_operation.insert(operation, at),
            None => self.by_operation.remove(&operation),
        };
        if previous == at {
            return;
        }
        if let Some(previous) = previous {
            self.order.remove(&(previous, operation));
        }
        if let Some(at) = at {
            self.order.insert((at, operation));
        }
    }

    /// The next time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Removes the next operation that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u64> {
        let (at, operation) = *self.order.first()?;
        if now < at {
            return None;
        }
        self.set(operation, None);
        Some(operation)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_operation_has_one_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        for (operation, time) in [(1, Some(3)), (2, Some(2)), (1, Some(1)), (3, Some(1)), (3, None)]
        {
            timers.set(operation, time.map(at));
        }
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!((timers.pop_due(start), timers.pop_due(at(5))), (None, Some(1)));
        assert_eq!((timers.pop_due(at(5)), timers.pop_due(at(5))), (Some(2), None));
        assert_eq!(timers.next(), None);
    }
}
