//! Endpoints at which helpers have hung.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::address::Target;

/// How long such an endpoint is not probed, and how long a first suspicion lasts.
const TERM: Duration = Duration::from_secs(60);
const MAX_TARGETS: usize = 1024;

/// The endpoints that are not probed for a while, since their file system or their resolver does
/// not answer. A helper may also hang as a whole, and then the endpoint is innocent: it needs a
/// second time.
#[derive(Debug, Default)]
pub(super) struct Quarantine(HashMap<Target, Hang>);

#[derive(Debug)]
struct Hang {
    is_certain: bool,
    until: Instant,
}

impl Quarantine {
    /// Notes that a helper has hung at a target.
    pub(super) fn add(&mut self, target: Target, is_certain: bool, now: Instant) {
        self.0.retain(|_, hang| now < hang.until);
        let is_known = self.0.contains_key(&target);
        if is_known || self.0.len() < MAX_TARGETS {
            let hang = Hang { is_certain: is_certain || is_known, until: now + TERM };
            self.0.insert(target, hang);
        }
    }

    /// Whether a target must not be probed now.
    pub(super) fn contains(&self, target: &Target, now: Instant) -> bool {
        self.0.get(target).is_some_and(|hang| hang.is_certain && now < hang.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(number: usize) -> Target {
        Target::Path(format!("/{number}"))
    }

    #[test]
    fn a_target_is_left_alone_after_the_second_time_or_a_certain_one() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        quarantine.add(target(1), false, now);
        assert!(!quarantine.contains(&target(1), now));
        quarantine.add(target(1), false, now + TERM / 2);
        assert!(quarantine.contains(&target(1), now + TERM));
        assert!(!quarantine.contains(&target(1), now + TERM * 2));
        quarantine.add(target(1), false, now + TERM * 2);
        assert!(!quarantine.contains(&target(1), now + TERM * 2), "the first time was long ago");
        quarantine.add(target(2), true, now);
        assert!(quarantine.contains(&target(2), now));
    }

    #[test]
    fn the_number_of_targets_is_bounded() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        for number in 0..2 * MAX_TARGETS {
            quarantine.add(target(number), true, now);
        }
        assert_eq!(quarantine.0.len(), MAX_TARGETS);
        quarantine.add(target(MAX_TARGETS), false, now + TERM);
        assert_eq!(quarantine.0.len(), 1);
    }
}
