//! Keeps what a peer can repeat without end from flooding the log.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one line through every 10 s and counts the others.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    last: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    /// Whether to log now; then, how many lines were held back since the last.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_and_a_count_of_the_rest() {
        let (mut limit, start) = (LogLimit::default(), super::super::clock::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(limit.admit(at(0)), Some(0));
        assert_eq!(limit.admit(at(0)), None);
        assert_eq!(limit.admit(at(9)), None);
        assert_eq!(limit.admit(at(10)), Some(2));
        assert_eq!(limit.admit(at(100)), Some(0));
    }
}
