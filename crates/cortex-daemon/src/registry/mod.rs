//! The core: which topics there are, what keeps them, and what each request does to them.
//!
//! It knows no clock, no socket and no file. What happens outside comes in as an [`Input`] with
//! the time, what is to be done outside goes out as [`Effects`]: a test can play a whole fleet's
//! life without either.
//!
//! Inputs come in batches. What a batch changes is staged: [`Registry::writes`] are what must be
//! stored; then [`Registry::commit`] makes it count, or [`Registry::rollback`] takes it back and
//! answers the batch's requests from what is still there.

mod directory;
mod effect;
mod input;
mod liveness;
mod log;
mod requests;
mod stats;
mod subscriptions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{DecodeError, TopicInfo, TopicName};

pub use directory::access::Access;
use directory::owners::Owners;
use directory::sessions::Sessions;
use directory::topics::{Entry, Topics};
pub use effect::{Change, Effects, ProbeRequest, Refusal, Reply};
pub use input::{Input, PeerRequest, ProbeResult, Timestamp, UnreadableRequest};
use liveness::pending_registers::{Patience, PendingRegister};
use log::history::History;
pub use log::record::{Event, EventKind, EvictionReason, Hold, Record, Snapshot, Write};
use log::staging::Staged;
use subscriptions::waiters::{Waiter, Waiters};
use subscriptions::watches::SnapshotReply;

/// While there are requests that were not read yet, sessions have this much longer.
const HEARING: Duration = Duration::from_secs(1);
/// After a change could not be stored, evictions wait this long before they are tried again.
const EVICTION_RETRY: Duration = Duration::from_secs(1);

/// Bounds for what peers can make the registry keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most topics.
    pub topics: usize,
    /// The most bytes in each of a topic's texts other than its name, which
    /// [`TopicName`] bounds.
    pub field_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { topics: 100_000, field_bytes: 1024 }
    }
}

/// What a registry is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds for what peers can make it keep.
    pub limits: Limits,
    /// Who may do what.
    pub access: Access,
    /// The time between two looks at an endpoint.
    pub probe_interval: Duration,
    /// The daemon's name and version, for who asks.
    pub server: String,
    /// The daemon's process, for who asks.
    pub pid: u32,
    /// The most events of the history that a watch can go back.
    pub history: usize,
}

/// How often something happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryCounters {
    /// Requests that could not be read, among them those that are too long.
    pub unreadable: u64,
    /// Requests refused since a limit was reached.
    pub over_limit: u64,
    /// Requests refused since the peer may not do that.
    pub no_access: u64,
    /// Topics that were not there before.
    pub registered: u64,
    /// Topics that were registered again and have changed.
    pub updated: u64,
    /// Topics removed by a peer.
    pub unregistered: u64,
    /// Topics removed by the daemon.
    pub evicted: u64,
    /// Batches that could not be stored.
    pub not_stored: u64,
}

impl RegistryCounters {
    fn count(&mut self, kind: EventKind) {
        let counter = match kind {
            EventKind::Registered => &mut self.registered,
            EventKind::Updated => &mut self.updated,
            EventKind::Unregistered => &mut self.unregistered,
            EventKind::Evicted(_) => &mut self.evicted,
        };
        *counter += 1;
    }
}

/// The set of topics and the protocol's rules.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    started: Instant,
    epoch: u64,
    revision: u64,
    topics: Topics,
    owners: Owners,
    sessions: Sessions,
    /// When which topic's endpoint is to be looked at.
    agenda: BTreeSet<(Instant, TopicName)>,
    pending_registers: Vec<PendingRegister>,
    history: History,
    waiters: Waiters,
    /// Those who have to make room for others, and are answered when the batch is decided.
    displaced: Vec<Waiter>,
    /// The history that was lost, until those who watch it are told.
    lost_epoch: Option<u64>,
    is_closing: bool,
    /// Counters and gauges of what is outside.
    outside: Vec<(&'static str, u64)>,
    /// The reply to LIST, made when somebody asks and kept until a topic changes.
    list_reply: Option<Arc<[u8]>>,
    /// The same for the last watch that asked for all there is.
    snapshot_reply: Option<SnapshotReply>,
    /// What the batch changes, and beside each change what is to be stored for it.
    staged: Vec<Staged>,
    writes: Vec<Write>,
    /// The requests that were answered in this batch.
    answered: Vec<PeerRequest>,
    effects: Effects,
    cost: usize,
    retry_evictions_at: Option<Instant>,
    counters: RegistryCounters,
}

impl Registry {
    /// A registry with the topics of a former life. Their processes are watched anew, and the
    /// endpoints of those that are gone are looked at: see [`is_settled`](Self::is_settled).
    ///
    /// # Errors
    /// When a record holds no topic.
    pub fn restore(
        settings: Settings,
        snapshot: Snapshot,
        now: Timestamp,
    ) -> Result<Self, DecodeError> {
        let history = History::new(settings.history, snapshot.history, snapshot.revision);
        let mut registry = Self {
            settings,
            started: now.instant,
            epoch: snapshot.epoch,
            revision: snapshot.revision,
            topics: Topics::default(),
            owners: Owners::default(),
            sessions: Sessions::default(),
            agenda: BTreeSet::new(),
            pending_registers: Vec::new(),
            history,
            waiters: Waiters::default(),
            displaced: Vec::new(),
            lost_epoch: None,
            is_closing: false,
            outside: Vec::new(),
            list_reply: None,
            snapshot_reply: None,
            staged: Vec::new(),
            writes: Vec::new(),
            answered: Vec::new(),
            effects: Effects::default(),
            cost: 0,
            retry_evictions_at: None,
            counters: RegistryCounters::default(),
        };
        for record in snapshot.records {
            let info = TopicInfo::from_bytes(&record.packed)?;
            let owner = crate::peer::PeerIdentity { uid: record.uid, process: record.process };
            let probes = registry.probe_schedule_for(&record.hold, record.process, now.instant);
            let entry = Entry {
                info: Arc::new(info),
                packed: record.packed,
                order: record.order,
                revision: record.revision,
                changed_ms: record.changed_ms,
                owner,
                hold: record.hold,
                found_alive: record.found_alive,
                probes,
            };
            registry.attach(entry.into(), now.instant);
        }
        Ok(registry)
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// All that is to be stored where nothing is stored yet, for the history of this number.
    #[must_use]
    pub fn snapshot(&self, epoch: u64) -> Snapshot {
        let records = self.topics.iter().map(Entry::record).collect();
        Snapshot { epoch, revision: self.revision, records, history: Vec::new() }
    }

    /// Between two batches: the history so far is lost, and another one begins. Who watches is told
    /// with the next batch.
    pub fn reset_history(&mut self, epoch: u64) {
        self.lost_epoch.get_or_insert(self.epoch);
        self.epoch = epoch;
        self.history.clear();
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counters(&self) -> RegistryCounters {
        self.counters
    }

    /// Whether no endpoint is being looked at.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.topics.iter().all(|entry| !entry.probes.is_probing())
    }

    /// How much work this batch is so far: the bytes that were made for its replies, and the ns that
    /// looking through topics and events takes. A LIST that was there already counts for nothing.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// When an [`Input::Tick`] answers somebody who waits.
    #[must_use]
    pub fn next_answer(&self) -> Option<Instant> {
        let pending = self.pending_registers.iter().map(|pending| pending.end).min();
        pending.into_iter().chain(self.waiters.next_end()).min()
    }

    /// When an [`Input::Tick`] looks at an endpoint, or ends a session.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        let probe = self.agenda.first().map(|(due, _)| *due);
        let lease = self.sessions.next_end();
        // Evictions that could not be stored are not tried again at once.
        let lease = lease.map(|end| self.retry_evictions_at.map_or(end, |again| again.max(end)));
        probe.into_iter().chain(lease).min()
    }

    /// Takes what happened. What follows is staged until [`commit`](Self::commit) or
    /// [`rollback`](Self::rollback).
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Request(asked) => self.receive(asked, now),
            Input::ProcessExited(process) => self.orphan(process, now),
            Input::ProcessUnseen(process) => self.lose_sight(process, now),
            Input::ProcessChecked(process) => self.looked(process, now),
            Input::EndpointProbed { name, revision, finding } => {
                self.probed(&name, revision, finding, now);
            }
            Input::Tick { all_dispatched } => self.tick(all_dispatched, now),
            Input::TimeGap => self.sessions.renew_all(now.instant),
            Input::Disconnected(connection) => self.cancel_waiters(connection),
            Input::Outside(figures) => self.outside = figures,
            Input::ShuttingDown => {
                self.retry_pending_registers(|_| true, Patience::Over, now);
                self.is_closing = true;
            }
        }
    }

    /// What must be stored before the batch counts.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    fn tick(&mut self, all_dispatched: bool, now: Timestamp) {
        self.begin_probes(now);
        if self.retry_evictions_at.is_none_or(|again| again <= now.instant) {
            self.retry_evictions_at = None;
            // Who asked in time for a session to stay may not have been heard yet.
            let grace = if all_dispatched { Duration::ZERO } else { HEARING };
            for name in self.sessions.ended(now.instant.checked_sub(grace).unwrap_or(now.instant)) {
                self.evict(&name, EvictionReason::LeaseExpired, now);
            }
        }
        self.retry_pending_registers(|pending| pending.end <= now.instant, Patience::Over, now);
    }

    fn evict(&mut self, name: &TopicName, reason: EvictionReason, now: Timestamp) {
        let Some(detached) = self.detach(name.as_str()) else { return };
        self.stage_removal(detached, EventKind::Evicted(reason));
        self.retry_pending_registers(|pending| pending.name == *name, Patience::Left, now);
    }
}
