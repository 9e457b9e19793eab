//! The users whose requests wait in the edge: a renewal of a lease may be among them.

use std::collections::HashMap;
use std::time::Instant;

/// For each user with requests that have arrived and were not dispatched yet, since when they may
/// wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingRequests {
    by_user: HashMap<Option<u32>, Instant>,
    /// The same for connections that were not accepted yet: their users are not known.
    of_any_user: Option<Instant>,
}

impl WaitingRequests {
    /// Requests of this user wait, and none arrived before `since`. All unknown peers count as one
    /// user.
    pub fn add(&mut self, uid: Option<u32>, since: Instant) {
        let first = self.by_user.entry(uid).or_insert(since);
        *first = since.min(*first);
    }

    /// Requests of unaccepted connections may wait, and none arrived before `since`.
    pub fn add_any_user(&mut self, since: Instant) {
        self.of_any_user = Some(self.of_any_user.map_or(since, |first| first.min(since)));
    }

    /// Whether a request of this user that waits may have arrived by `end`.
    pub(super) fn may_be_from(&self, uid: Option<u32>, end: Instant) -> bool {
        let of_user = self.by_user.get(&uid).copied();
        of_user.into_iter().chain(self.of_any_user).any(|since| since <= end)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::test_time::start;

    #[test]
    fn a_users_requests_count_from_the_first_that_waits() {
        let (mut waiting, now) = (WaitingRequests::default(), start());
        let later = now + Duration::from_secs(1);
        assert!(!waiting.may_be_from(Some(1), later));
        waiting.add(Some(1), later);
        assert!(!waiting.may_be_from(Some(1), now), "it arrived later");
        waiting.add(Some(1), now);
        waiting.add(Some(1), later);
        assert!(waiting.may_be_from(Some(1), now));
        assert!(!waiting.may_be_from(None, later), "another user");
        waiting.add_any_user(later);
        assert!(waiting.may_be_from(None, later) && !waiting.may_be_from(None, now));
    }
}
