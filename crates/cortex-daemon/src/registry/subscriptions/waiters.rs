//! Parked requests, found by what they wait for, by age, by deadline, by user and by connection. A
//! waiter costs nothing until its condition is met.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::time::Instant;

use cortex_proto::{TopicFilter, TopicName};

use crate::peer::{ConnectionId, ReplyTo};

/// The most waiters of all users; one user has at most half of them.
const MAX: usize = 100_000;
/// The most bytes of all waiters, envelopes and names included; one user has at most half of them.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The most bytes of all different patterns, and of one user's: each change is matched with each
/// pattern.
const MAX_PATTERN_BYTES: usize = 64 * 1024;
const MAX_PATTERN_BYTES_PER_USER: usize = 8 * 1024;
/// About how many bytes a waiter takes beside its names and its envelope.
const WAITER_BYTES: usize = 400;

/// A parked request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Waiter {
    pub(in crate::registry) to: ReplyTo,
    pub(in crate::registry) uid: Option<u32>,
    /// The last moment at which the daemon answers.
    pub(in crate::registry) end: Instant,
    pub(in crate::registry) condition: WakeCondition,
}

/// What a waiter waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum WakeCondition {
    /// A topic's registration.
    Topic(TopicName),
    /// A change of one topic, or of every topic that passes.
    Change(Option<TopicName>, WatchSpec),
}

/// Which events a watch takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::registry) struct WatchSpec {
    /// The topics; `None` for all.
    pub(in crate::registry) filter: Option<Arc<TopicFilter>>,
    /// The most events in a reply.
    pub(in crate::registry) limit: usize,
}

/// The waiters. An index never holds a number without a waiter, nor an empty set.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u64,
    /// The number of WAIT requests; the others are watches.
    waits: usize,
    /// By number, and so by age: the oldest first.
    by_age: BTreeMap<u64, Waiter>,
    by_end: BTreeSet<(Instant, u64)>,
    /// The waiters that only one topic concerns.
    by_name: HashMap<TopicName, BTreeSet<u64>>,
    /// The watches that several topics may concern.
    by_filter: HashMap<Pattern, BTreeSet<u64>>,
    pattern_bytes: usize,
    /// By connection and then by the hash of the envelope, which may be long.
    by_request: BTreeSet<(ConnectionId, u64, u64)>,
    envelope_hash: RandomState,
    users: HashMap<Option<u32>, User>,
    bytes: usize,
}

/// A user and its pattern; without a filter for all topics.
type Pattern = (Option<u32>, Option<Arc<TopicFilter>>);

#[derive(Debug, Default)]
struct User {
    waiting: BTreeSet<u64>,
    bytes: usize,
    pattern_bytes: usize,
}

impl WakeCondition {
    /// A change that a watch takes.
    pub(in crate::registry) fn change(watch: WatchSpec) -> Self {
        let name = watch.filter.as_ref().and_then(|filter| TopicName::new(filter.name()?).ok());
        Self::Change(name, watch)
    }

    /// The only topic that concerns the waiter.
    fn name(&self) -> Option<&TopicName> {
        match self {
            Self::Topic(name) => Some(name),
            Self::Change(name, _) => name.as_ref(),
        }
    }

    /// The pattern by which the waiter is found, when several topics may concern it.
    fn filter(&self) -> Option<&Option<Arc<TopicFilter>>> {
        match self {
            Self::Topic(_) | Self::Change(Some(_), _) => None,
            Self::Change(None, watch) => Some(&watch.filter),
        }
    }
}

/// Whether a watch with this filter takes the events of a topic.
pub(in crate::registry) fn passes(filter: Option<&TopicFilter>, name: &TopicName) -> bool {
    filter.is_none_or(|filter| filter.matches(name.as_str()))
}

fn length(filter: Option<&Arc<TopicFilter>>) -> usize {
    filter.map_or(0, |filter| filter.as_str().len())
}

impl Waiter {
    fn bytes(&self) -> usize {
        let wanted = match &self.condition {
            WakeCondition::Topic(name) => name.as_str().len(),
            WakeCondition::Change(_, watch) => length(watch.filter.as_ref()),
        };
        WAITER_BYTES + wanted + self.to.envelope.len()
    }

    pub(super) fn is_wait(&self) -> bool {
        matches!(self.condition, WakeCondition::Topic(_))
    }
}

impl Waiters {
    /// The numbers of WAIT and of WATCH requests.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.waits, self.by_age.len() - self.waits)
    }

    /// The bytes of all patterns that each change is matched with.
    pub(super) fn pattern_bytes(&self) -> usize {
        self.pattern_bytes
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// Adds a waiter, and returns those that it displaces: the oldest of its user or of all users;
    /// or itself, when its user has no room for its pattern.
    pub(super) fn add(&mut self, waiter: Waiter) -> Vec<Waiter> {
        let mut displaced = Vec::new();
        if self.lacks_room_for_pattern(&waiter) {
            return vec![waiter];
        }
        let (uid, number) = (waiter.uid, self.next);
        self.next += 1;
        self.enter(number, waiter);
        while let Some(oldest) = self.oldest_beyond_share(uid).or_else(|| self.oldest_beyond_all())
        {
            displaced.extend(self.remove(oldest));
        }
        displaced
    }

    /// Takes the waiters that this topic alone concerns.
    pub(super) fn take_named(
        &mut self,
        name: &TopicName,
        is_wanted: impl Fn(&Waiter) -> bool,
    ) -> Vec<Waiter> {
        let Some(numbers) = self.by_name.get(name) else { return Vec::new() };
        let is_wanted = |number: &&u64| self.by_age.get(number).is_some_and(&is_wanted);
        let numbers = numbers.iter().filter(is_wanted).copied().collect();
        self.remove_all(numbers)
    }

    /// Takes the watches whose pattern matches one of these topics.
    pub(super) fn take_matching(&mut self, names: &[TopicName]) -> Vec<Waiter> {
        let matches = |filter: &Option<Arc<TopicFilter>>| {
            names.iter().any(|name| passes(filter.as_deref(), name))
        };
        let woken = self.by_filter.iter().filter(|((_, filter), _)| matches(filter));
        let numbers: BTreeSet<u64> = woken.flat_map(|(_, numbers)| numbers).copied().collect();
        self.remove_all(numbers)
    }

    /// Takes every watch.
    pub(super) fn take_watches(&mut self) -> Vec<Waiter> {
        let watches = self.by_age.iter().filter(|(_, waiter)| !waiter.is_wait());
        let numbers = watches.map(|(number, _)| *number).collect();
        self.remove_all(numbers)
    }

    /// Takes the waiters whose time is over.
    pub(super) fn take_ended(&mut self, now: Instant) -> Vec<Waiter> {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now);
        let numbers = ended.map(|(_, number)| *number).collect();
        self.remove_all(numbers)
    }

    /// Takes the waiters of a connection.
    pub(super) fn take_connection(&mut self, connection: ConnectionId) -> Vec<Waiter> {
        let of_connection = (connection, 0, 0)..=(connection, u64::MAX, u64::MAX);
        let requests = self.by_request.range(of_connection);
        let numbers = requests.map(|(_, _, number)| *number).collect();
        self.remove_all(numbers)
    }

    /// Takes the waiters with this connection and envelope.
    pub(super) fn take_requests(&mut self, to: &ReplyTo) -> Vec<Waiter> {
        let (connection, hash, _) = self.request_key(to, 0);
        let with_hash = (connection, hash, 0)..=(connection, hash, u64::MAX);
        let requests = self.by_request.range(with_hash).map(|(_, _, number)| *number);
        let has_envelope = |number: &u64| self.by_age.get(number).is_some_and(|it| it.to == *to);
        let numbers = requests.filter(has_envelope).collect();
        self.remove_all(numbers)
    }

    pub(super) fn take_all(&mut self) -> Vec<Waiter> {
        std::mem::take(self).by_age.into_values().collect()
    }

    fn enter(&mut self, number: u64, mut waiter: Waiter) {
        let bytes = waiter.bytes();
        self.by_request.insert(self.request_key(&waiter.to, number));
        self.bytes += bytes;
        self.waits += usize::from(waiter.is_wait());
        let user = self.users.entry(waiter.uid).or_default();
        user.bytes += bytes;
        user.waiting.insert(number);
        self.by_end.insert((waiter.end, number));
        if let Some(name) = waiter.condition.name() {
            self.by_name.entry(name.clone()).or_default().insert(number);
        }
        if let WakeCondition::Change(None, watch) = &mut waiter.condition {
            let mut pattern = (waiter.uid, watch.filter.clone());
            if let Some((known, _)) = self.by_filter.get_key_value(&pattern) {
                // Equal patterns share one allocation.
                watch.filter.clone_from(&known.1);
            } else {
                user.pattern_bytes += length(watch.filter.as_ref());
                self.pattern_bytes += length(watch.filter.as_ref());
            }
            pattern.1.clone_from(&watch.filter);
            self.by_filter.entry(pattern).or_default().insert(number);
        }
        self.by_age.insert(number, waiter);
    }

    fn remove(&mut self, number: u64) -> Option<Waiter> {
        let waiter = self.by_age.remove(&number)?;
        let bytes = waiter.bytes();
        self.bytes -= bytes;
        self.waits -= usize::from(waiter.is_wait());
        self.by_end.remove(&(waiter.end, number));
        self.by_request.remove(&self.request_key(&waiter.to, number));
        if let Some(name) = waiter.condition.name() {
            take_out(&mut self.by_name, name, number);
        }
        let mut pattern_bytes = 0;
        if let Some(filter) = waiter.condition.filter()
            && take_out(&mut self.by_filter, &(waiter.uid, filter.clone()), number)
        {
            pattern_bytes = length(filter.as_ref());
        }
        self.pattern_bytes -= pattern_bytes;
        if let Some(user) = self.users.get_mut(&waiter.uid) {
            user.bytes -= bytes;
            user.pattern_bytes -= pattern_bytes;
            user.waiting.remove(&number);
            if user.waiting.is_empty() {
                self.users.remove(&waiter.uid);
            }
        }
        Some(waiter)
    }

    fn remove_all(&mut self, numbers: BTreeSet<u64>) -> Vec<Waiter> {
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    fn request_key(&self, to: &ReplyTo, number: u64) -> (ConnectionId, u64, u64) {
        (to.connection, self.envelope_hash.hash_one(&to.envelope), number)
    }

    fn lacks_room_for_pattern(&self, waiter: &Waiter) -> bool {
        let Some(filter) = waiter.condition.filter() else { return false };
        let of_user = self.users.get(&waiter.uid).map_or(0, |user| user.pattern_bytes);
        let bytes = length(filter.as_ref());
        let is_too_much = of_user + bytes > MAX_PATTERN_BYTES_PER_USER
            || self.pattern_bytes + bytes > MAX_PATTERN_BYTES;
        is_too_much && !self.by_filter.contains_key(&(waiter.uid, filter.clone()))
    }

    /// The oldest waiter of a user that has more than its share.
    fn oldest_beyond_share(&self, uid: Option<u32>) -> Option<u64> {
        let user = self.users.get(&uid)?;
        let is_beyond = user.waiting.len() > MAX / 2 || user.bytes > MAX_BYTES / 2;
        user.waiting.first().copied().filter(|_| is_beyond)
    }

    /// The oldest waiter of all, when there are too many.
    fn oldest_beyond_all(&self) -> Option<u64> {
        let is_beyond = self.by_age.len() > MAX || self.bytes > MAX_BYTES;
        self.by_age.first_key_value().map(|(number, _)| *number).filter(|_| is_beyond)
    }
}

/// Removes a number from an index, and its key with its last number. Returns whether the key went.
fn take_out<K: Hash + Eq>(index: &mut HashMap<K, BTreeSet<u64>>, key: &K, number: u64) -> bool {
    let Some(numbers) = index.get_mut(key) else { return false };
    numbers.remove(&number);
    let is_empty = numbers.is_empty();
    if is_empty {
        index.remove(key);
    }
    is_empty
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::test_time::start;
    use crate::zmtp::Envelope;

    fn waiter(connection: usize, uid: u32, now: Instant, condition: WakeCondition) -> Waiter {
        let to = ReplyTo { connection: ConnectionId(connection), envelope: Envelope::default() };
        Waiter { to, uid: Some(uid), end: now + Duration::from_secs(60), condition }
    }

    fn topic(name: &str) -> WakeCondition {
        WakeCondition::Topic(TopicName::new(name).unwrap())
    }

    fn change(filter: Option<&str>) -> WakeCondition {
        let filter = filter.map(|pattern| Arc::new(TopicFilter::new(pattern).unwrap()));
        WakeCondition::change(WatchSpec { filter, limit: 10 })
    }

    fn connections(waiters: &[Waiter]) -> Vec<usize> {
        waiters.iter().map(|waiter| waiter.to.connection.0).collect()
    }

    #[test]
    fn a_change_takes_the_waiters_that_it_concerns() {
        let now = start();
        let mut waiters = Waiters::default();
        let wanted = [
            topic("/a"),
            topic("/b"),
            change(None),
            change(Some("/a")),
            change(Some("/*")),
            change(Some("/b/**")),
            topic("/a"),
        ];
        for (connection, condition) in wanted.into_iter().enumerate() {
            assert_eq!(waiters.add(waiter(connection, 1, now, condition)), []);
        }
        assert_eq!(waiters.counts(), (3, 4));
        let name = TopicName::new("/a").unwrap();
        assert_eq!(connections(&waiters.take_named(&name, |waiter| !waiter.is_wait())), [3]);
        assert_eq!(connections(&waiters.take_named(&name, |_| true)), [0, 6]);
        assert_eq!(connections(&waiters.take_matching(&[name])), [2, 4]);
        assert_eq!(connections(&waiters.take_matching(&[])), [0_usize; 0]);
        assert_eq!(connections(&waiters.take_connection(ConnectionId(1))), [1]);
        assert_eq!(connections(&waiters.take_ended(now)), [0_usize; 0]);
        assert_eq!(connections(&waiters.take_ended(now + Duration::from_secs(60))), [5]);
        assert_eq!(waiters.counts(), (0, 0));
        assert_eq!((waiters.bytes, waiters.pattern_bytes), (0, 0));
        assert!(waiters.by_name.is_empty() && waiters.by_filter.is_empty());
        assert!(waiters.by_request.is_empty() && waiters.users.is_empty());
        assert_eq!(waiters.next_end(), None);
    }

    #[test]
    fn the_oldest_waiters_make_room_per_user_and_in_all() {
        let now = start();
        let mut waiters = Waiters::default();
        for number in 0..MAX / 2 {
            assert_eq!(waiters.add(waiter(number, 1, now, topic("/a"))), []);
        }
        assert_eq!(connections(&waiters.add(waiter(MAX, 1, now, topic("/a")))), [0]);
        for number in 0..MAX / 2 {
            assert_eq!(waiters.add(waiter(MAX + number, 2, now, topic("/a"))), []);
        }
        assert_eq!(connections(&waiters.add(waiter(7, 3, now, topic("/a")))), [1]);
        assert_eq!(waiters.counts(), (MAX, 0));
    }

    #[test]
    fn long_filters_count_by_their_bytes() {
        let now = start();
        let mut waiters = Waiters::default();
        let long = format!("/{}", "x".repeat(1000));
        let fit = MAX_BYTES / 2 / (WAITER_BYTES + long.len());
        for number in 0..fit {
            assert_eq!(waiters.add(waiter(number, 1, now, change(Some(&long)))), []);
        }
        assert_eq!(connections(&waiters.add(waiter(fit, 1, now, change(Some(&long))))), [0]);
    }

    #[test]
    fn each_user_has_a_bound_for_its_different_patterns() {
        let now = start();
        let mut waiters = Waiters::default();
        let pattern = |number: usize| format!("/{number:0>60}/*");
        let fit = MAX_PATTERN_BYTES_PER_USER / pattern(0).len();
        for number in 0..fit {
            let condition = change(Some(&pattern(number)));
            assert_eq!(waiters.add(waiter(number, 1, now, condition)), []);
        }
        let another = waiter(7, 1, now, change(Some(&pattern(fit))));
        assert_eq!(waiters.add(another.clone()), std::slice::from_ref(&another), "at once");
        assert_eq!(waiters.add(waiter(7, 1, now, change(Some(&pattern(7))))), [], "known");
        assert_eq!(waiters.add(waiter(7, 1, now, change(Some("/plain")))), []);
        assert_eq!(waiters.add(waiter(7, 1, now, change(None))), []);
        assert_eq!(waiters.add(Waiter { uid: Some(2), ..another.clone() }), [], "another user");
        assert_eq!(waiters.take_connection(ConnectionId(1)).len(), 1);
        assert_eq!(waiters.add(another), [], "there is room again");
        waiters.take_ended(now + Duration::from_secs(60));
        assert_eq!(waiters.pattern_bytes, 0);
    }
}
