//! Sessions: topics that stay registered for as long as a client renews them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use crate::registry::waiting_requests::WaitingRequests;

/// The id of a session together with its user: a user cannot touch another user's sessions. All
/// unknown peers count as one user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::registry) struct SessionKey {
    pub(in crate::registry) uid: Option<u32>,
    pub(in crate::registry) id: String,
}

/// A session's topics, each with the lease that it was registered with. The longest one counts.
#[derive(Debug)]
struct Lease {
    end: Instant,
    by_topic_ms: BTreeMap<TopicName, u64>,
}

impl Lease {
    fn lease_ms(&self) -> u64 {
        self.by_topic_ms.values().copied().max().unwrap_or_default()
    }

    fn duration(&self) -> Duration {
        Duration::from_millis(self.lease_ms())
    }
}

/// The sessions whose lease is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct EndedSessions {
    /// The topics of those that have ended.
    pub(in crate::registry) topics: Vec<TopicName>,
    /// Whether others live on, since requests wait.
    pub(in crate::registry) has_extended: bool,
}

/// The sessions that hold a topic. A session without topics does not exist.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_key: HashMap<SessionKey, Lease>,
    by_end: BTreeSet<(Instant, SessionKey)>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Puts a topic into a session. The session then ends at `end`, or a full lease from now.
    pub(super) fn add(
        &mut self,
        key: SessionKey,
        lease_ms: u64,
        name: TopicName,
        end: Option<Instant>,
        now: Instant,
    ) {
        let mut lease =
            self.take(&key).unwrap_or_else(|| Lease { end: now, by_topic_ms: BTreeMap::new() });
        lease.by_topic_ms.insert(name, lease_ms);
        let end = end.unwrap_or(now + lease.duration());
        self.put(key, lease, end);
    }

    pub(super) fn remove(&mut self, key: &SessionKey, name: &TopicName) {
        let Some(lease) = self.by_key.get_mut(key) else { return };
        lease.by_topic_ms.remove(name);
        if lease.by_topic_ms.is_empty() {
            self.take(key);
        }
    }

    /// Gives a session a full lease. Returns the lease in ms; `None` when no such session exists.
    pub(super) fn renew(&mut self, key: &SessionKey, now: Instant) -> Option<u64> {
        let lease = self.take(key)?;
        let (lease_ms, end) = (lease.lease_ms(), now + lease.duration());
        self.put(key.clone(), lease, end);
        Some(lease_ms)
    }

    /// Gives every session a full lease.
    pub(super) fn renew_all(&mut self, now: Instant) {
        let keys: Vec<_> = self.by_key.keys().cloned().collect();
        for key in keys {
            self.renew(&key, now);
        }
    }

    /// The lease of a session, in ms.
    pub(super) fn lease_of(&self, key: &SessionKey) -> Option<u64> {
        self.by_key.get(key).map(Lease::lease_ms)
    }

    /// When a session ends, if it is not renewed.
    pub(super) fn end_of(&self, key: &SessionKey) -> Option<Instant> {
        self.by_key.get(key).map(|lease| lease.end)
    }

    /// Moves the end of a session, if it exists.
    pub(super) fn set_end(&mut self, key: &SessionKey, end: Instant) {
        if let Some(lease) = self.take(key) {
            self.put(key.clone(), lease, end);
        }
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// The sessions that have ended by `now`. While requests wait among which a renewal may have come
    /// in time, a session ends a lease later.
    pub(super) fn ended(&self, waiting: &WaitingRequests, now: Instant) -> EndedSessions {
        let mut ended = EndedSessions::default();
        for (end, key) in self.by_end.iter().take_while(|(end, _)| *end <= now) {
            let Some(lease) = self.by_key.get(key) else { continue };
            if now < *end + lease.duration() && waiting.may_be_from(key.uid, *end) {
                ended.has_extended = true;
            } else {
                ended.topics.extend(lease.by_topic_ms.keys().cloned());
            }
        }
        ended
    }

    fn take(&mut self, key: &SessionKey) -> Option<Lease> {
        let lease = self.by_key.remove(key)?;
        self.by_end.remove(&(lease.end, key.clone()));
        Some(lease)
    }

    fn put(&mut self, key: SessionKey, lease: Lease, end: Instant) {
        self.by_end.insert((end, key.clone()));
        self.by_key.insert(key, Lease { end, ..lease });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_time::start;

    fn key(uid: u32) -> SessionKey {
        SessionKey { uid: Some(uid), id: "s".into() }
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn the_longest_lease_of_the_topics_is_the_sessions() {
        let (mut sessions, now) = (Sessions::default(), start());
        sessions.add(key(1), 500, name("/a"), None, now);
        sessions.add(key(1), 60_000, name("/b"), None, now);
        assert_eq!(sessions.lease_of(&key(1)), Some(60_000));
        assert_eq!(sessions.next_end(), Some(now + Duration::from_secs(60)));
        sessions.remove(&key(1), &name("/b"));
        assert_eq!(sessions.lease_of(&key(1)), Some(500));
    }

    #[test]
    fn a_session_ends_with_all_its_topics_and_no_others() {
        let (mut sessions, now) = (Sessions::default(), start());
        sessions.add(key(1), 500, name("/a"), None, now);
        sessions.add(key(1), 500, name("/b"), None, now);
        sessions.add(key(2), 1000, name("/c"), None, now);
        let later = |ms| now + Duration::from_millis(ms);
        let ended =
            |sessions: &Sessions, ms| sessions.ended(&WaitingRequests::default(), later(ms)).topics;
        assert!(ended(&sessions, 499).is_empty());
        assert_eq!(ended(&sessions, 500), [name("/a"), name("/b")]);
        assert_eq!(sessions.renew(&key(1), later(500)), Some(500));
        assert!(ended(&sessions, 999).is_empty());
        assert_eq!(ended(&sessions, 1000).len(), 3);
    }

    #[test]
    fn a_session_without_topics_does_not_exist() {
        let (mut sessions, now) = (Sessions::default(), start());
        sessions.add(key(1), 500, name("/a"), None, now);
        sessions.remove(&key(1), &name("/a"));
        assert_eq!((sessions.len(), sessions.next_end()), (0, None));
        assert_eq!(sessions.renew(&key(1), now), None);
    }
}
