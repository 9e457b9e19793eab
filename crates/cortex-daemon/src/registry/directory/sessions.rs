//! Sessions: topics that stay for as long as somebody renews them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use cortex_proto::{Hold as WireHold, RequestExt, Session as RequestedSession, TopicName};

use crate::registry::Hold;

const DEFAULT_LEASE_MS: u64 = 10_000;
const MIN_LEASE_MS: u64 = 500;
const MAX_LEASE_MS: u64 = 24 * 60 * 60 * 1000;
const MAX_ID_BYTES: usize = 64;

/// A session's name. Users cannot touch each other's; all peers whose user is unknown share theirs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::registry) struct SessionKey {
    pub(in crate::registry) uid: Option<u32>,
    pub(in crate::registry) id: String,
}

/// A session's topics, each with the term that it was registered with; the longest counts.
#[derive(Debug)]
struct Lease {
    end: Instant,
    terms_ms: BTreeMap<TopicName, u64>,
}

impl Lease {
    fn term_ms(&self) -> u64 {
        self.terms_ms.values().copied().max().unwrap_or(DEFAULT_LEASE_MS)
    }

    fn term(&self) -> Duration {
        Duration::from_millis(self.term_ms())
    }
}

/// All sessions that hold a topic.
#[derive(Debug, Default)]
pub(in crate::registry) struct Sessions {
    leases: HashMap<SessionKey, Lease>,
    by_end: BTreeSet<(Instant, SessionKey)>,
}

impl Sessions {
    pub(in crate::registry) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Puts a topic into a session, which lasts until `end` from now on; `None` is a full term.
    pub(in crate::registry) fn add(
        &mut self,
        key: SessionKey,
        term_ms: u64,
        name: TopicName,
        end: Option<Instant>,
        now: Instant,
    ) {
        let mut lease =
            self.take(&key).unwrap_or_else(|| Lease { end: now, terms_ms: BTreeMap::new() });
        lease.terms_ms.insert(name, term_ms);
        let end = end.unwrap_or(now + lease.term());
        self.put(key, lease, end);
    }

    /// Takes a topic out; a session without topics is none.
    pub(in crate::registry) fn remove(&mut self, key: &SessionKey, name: &TopicName) {
        let Some(lease) = self.leases.get_mut(key) else { return };
        lease.terms_ms.remove(name);
        if lease.terms_ms.is_empty() {
            self.take(key);
        }
    }

    /// Gives a session a full term; tells its length in ms, if there is such a session.
    pub(in crate::registry) fn renew(&mut self, key: &SessionKey, now: Instant) -> Option<u64> {
        let lease = self.take(key)?;
        let (term_ms, end) = (lease.term_ms(), now + lease.term());
        self.put(key.clone(), lease, end);
        Some(term_ms)
    }

    /// Gives every session a full term.
    pub(in crate::registry) fn renew_all(&mut self, now: Instant) {
        let keys: Vec<_> = self.leases.keys().cloned().collect();
        for key in keys {
            self.renew(&key, now);
        }
    }

    /// The term of a session, in ms.
    pub(in crate::registry) fn term_of(&self, key: &SessionKey) -> Option<u64> {
        self.leases.get(key).map(Lease::term_ms)
    }

    /// When a session ends, if it is not renewed.
    pub(in crate::registry) fn end_of(&self, key: &SessionKey) -> Option<Instant> {
        self.leases.get(key).map(|lease| lease.end)
    }

    pub(in crate::registry) fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// The topics of the sessions that have ended.
    pub(in crate::registry) fn ended(&self, now: Instant) -> Vec<TopicName> {
        self.by_end
            .iter()
            .take_while(|(end, _)| *end <= now)
            .filter_map(|(_, key)| self.leases.get(key))
            .flat_map(|lease| lease.terms_ms.keys().cloned())
            .collect()
    }

    fn take(&mut self, key: &SessionKey) -> Option<Lease> {
        let lease = self.leases.remove(key)?;
        self.by_end.remove(&(lease.end, key.clone()));
        Some(lease)
    }

    fn put(&mut self, key: SessionKey, lease: Lease, end: Instant) {
        self.by_end.insert((end, key.clone()));
        self.leases.insert(key, Lease { end, ..lease });
    }
}

/// What shall keep a topic, by the extension of its REGISTER.
pub(in crate::registry) fn requested_hold(ext: Option<&RequestExt>) -> Result<Hold, String> {
    let Some(ext) = ext else { return Ok(Hold::Process) };
    match (&ext.hold, &ext.session) {
        (None | Some(WireHold::Process), None) => Ok(Hold::Process),
        (Some(WireHold::Static), None) => Ok(Hold::Static),
        (None | Some(WireHold::Session), Some(session)) => {
            check_session_id(&session.id)?;
            Ok(Hold::Session { id: session.id.clone(), lease_ms: term_of(session) })
        }
        (Some(WireHold::Session), None) => {
            Err("ext.session is missing: a session has an id".into())
        }
        (Some(WireHold::Other(word)), _) => Err(format!(
            "ext.hold is `{}`, and can be process, session or static",
            word.chars().take(64).collect::<String>()
        )),
        (Some(hold @ (WireHold::Process | WireHold::Static)), Some(_)) => {
            Err(format!("ext.hold is {hold}, and ext.session is there: only one can keep a topic"))
        }
    }
}

pub(in crate::registry) fn check_session_id(id: &str) -> Result<(), String> {
    match id.len() {
        1..=MAX_ID_BYTES => Ok(()),
        length => {
            Err(format!("ext.session.id has {length} bytes, 1 to {MAX_ID_BYTES} are allowed"))
        }
    }
}

/// The term that a session gets, in ms: what it asks for, within bounds.
pub(in crate::registry) fn term_of(session: &RequestedSession) -> u64 {
    session.lease_ms.unwrap_or(DEFAULT_LEASE_MS).clamp(MIN_LEASE_MS, MAX_LEASE_MS)
}
