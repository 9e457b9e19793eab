//! Limits the log lines that a peer can cause.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(10);

/// Allows some lines in 10 s and counts the others.
#[derive(Debug)]
pub(crate) struct LogLimit {
    burst: u32,
    /// When the current 10 s began.
    began: Option<Instant>,
    allowed: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Allows `burst` lines in 10 s.
    pub(crate) fn new(burst: u32) -> Self {
        Self { burst, began: None, allowed: 0, suppressed: 0 }
    }

    /// `Some` if the line may be logged, with the number of suppressed lines before it.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now >= began + INTERVAL) {
            self.began = Some(now);
            self.allowed = 0;
        }
        if self.allowed >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.allowed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lines_in_ten_seconds_and_a_count_of_the_rest() {
        let (mut limit, start) = (LogLimit::new(2), super::super::clock::now());
        let mut allow = |seconds: u64| limit.allow(start + Duration::from_secs(seconds));
        assert_eq!((allow(0), allow(1)), (Some(0), Some(0)));
        assert_eq!((allow(1), allow(9)), (None, None));
        assert_eq!((allow(10), allow(11), allow(12)), (Some(2), Some(0), None));
        assert_eq!(allow(100), Some(1));
    }
}
