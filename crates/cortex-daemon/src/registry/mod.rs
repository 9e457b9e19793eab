//! The core: the registered topics, what keeps them registered, and what each request does.
//!
//! The registry knows no clock, no socket and no file. What happens outside comes in as an
//! [`Input`] with the time; what the daemon must do goes out as [`Effects`]. So a test can play the
//! life of a whole fleet without either.
//!
//! Inputs come in batches. A batch stages its changes: [`Registry::writes`] is what the store must
//! keep. Then [`Registry::commit`] makes the batch count, or [`Registry::rollback`] takes it back.
//! Every request is decided when it comes and answered when the batch has ended.

mod answer;
mod batch;
mod counters;
mod directory;
mod effect;
mod input;
mod liveness;
mod log;
mod probing;
mod registrations;
mod reply;
mod reply_cache;
mod requests;
mod settings;
mod subscriptions;
#[cfg(test)]
mod test_time;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{DecodeError, DiscoveryStatus, Since, TopicName};

use crate::peer::{ConnectionId, Process};
use answer::{Answer, ReplyContext};
use batch::Batch;
pub use counters::RegistryCounters;
pub use directory::access::Access;
use directory::topics::Entry;
pub use effect::{Effects, Miss, NameConflict, ProbeRequest, Refusal};
pub use input::{Input, PeerRequest, ProbeResult, Timestamp, UnknownReason, UnreadableRequest};
use liveness::Liveness;
use liveness::pending_registers::{MAX_REGISTER_WAIT, PendingRegister};
pub use log::record::{Change, Event, EventKind, EvictionReason, Hold, Record, Snapshot, Write};
use probing::Judgement;
use registrations::{EVICTION_RETRY, Registrations};
pub use reply::{Reply, ReplyBody, Stats};
use reply_cache::ReplyCache;
use requests::RegistryParts;
use requests::decision::Decision;
use requests::register::OnDoubt;
pub use settings::{Limits, Settings};
use subscriptions::replies::pack_no_events;
use subscriptions::waiters::{Waiter, WakeCondition};
use subscriptions::{BatchEnd, Subscriptions};

/// While requests have arrived that were not dispatched yet, sessions live this much longer.
const DISPATCH_GRACE: Duration = Duration::from_secs(1);

/// The registered topics and the protocol's rules: dispatch over parts that know nothing of each
/// other's insides.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    started: Instant,
    registrations: Registrations,
    subscriptions: Subscriptions,
    cache: ReplyCache,
    batch: Batch,
    counters: RegistryCounters,
    /// The time before which no session ends, after the store refused a batch.
    retry_evictions_at: Option<Instant>,
}

impl Registry {
    /// A registry with the topics that a former daemon has stored. Their owners are watched again.
    ///
    /// # Errors
    /// When a record holds no topic.
    pub fn restore(
        settings: Settings,
        snapshot: Snapshot,
        now: Timestamp,
    ) -> Result<Self, DecodeError> {
        let registrations = Registrations::restore(&settings, snapshot, now)?;
        Ok(Self {
            settings,
            started: now.instant,
            registrations,
            subscriptions: Subscriptions::default(),
            cache: ReplyCache::default(),
            batch: Batch::default(),
            counters: RegistryCounters::default(),
            retry_evictions_at: None,
        })
    }

    /// Takes what has happened. Its changes are staged until [`commit`](Self::commit) or
    /// [`rollback`](Self::rollback).
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Request(request) => self.receive(request, now),
            Input::ProcessExited(process) => {
                self.registrations.process_exited(process, now.instant);
                self.begin_probes(now);
            }
            Input::ProcessUnseen(process) => {
                self.registrations.process_unseen(process, now.instant);
                self.begin_probes(now);
            }
            Input::ProcessChecked(process) => self.process_checked(process, now),
            Input::EndpointProbed { name, revision, result, listener } => {
                let (registrations, found) = (&mut self.registrations, (result, listener));
                let judgement =
                    probing::endpoint_probed(registrations, &name, revision, found, now.instant);
                self.judge(&name, judgement, now);
            }
            Input::Tick { all_dispatched } => self.tick(all_dispatched, now),
            Input::TimeGap => {
                self.registrations.directory.renew_all_sessions(now.instant);
                self.registrations.liveness.time_gap();
            }
            Input::GaveUp(connection) => self.cancel_waiting(connection),
            Input::Disconnected(connection) => {
                self.batch.disconnected.insert(connection);
                self.cancel_waiting(connection);
            }
            Input::ShuttingDown => {
                self.retry_pending_registers(|_| true, OnDoubt::Refuse, now);
                self.subscriptions.shut_down();
            }
        }
    }

    /// What the store must keep before the batch counts.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        self.registrations.log.writes()
    }

    /// The store has the batch: returns what the daemon must do.
    pub fn commit(&mut self, now: Timestamp) -> Effects {
        let changes = self.registrations.commit();
        for change in &changes {
            self.counters.count(change.kind);
        }
        let before = self.registrations.log.position().revision - changes.len() as u64;
        let topics: Vec<_> = changes.iter().map(|change| change.info.name.clone()).collect();
        self.batch.effects.changed.extend(changes);
        for (request, answer) in std::mem::take(&mut self.batch.answers) {
            self.reply(request, answer, now);
        }
        self.end_batch(BatchEnd::Stored, &topics, before, now)
    }

    /// The store cannot keep the batch: takes its changes back. Requests that change something get
    /// ERROR with `problem`; the others are answered from the restored state. Evictions are tried
    /// again later.
    pub fn rollback(&mut self, problem: &str, now: Timestamp) -> Effects {
        self.counters.not_stored += 1;
        let topics = self.registrations.rollback(now.instant);
        self.cache.clear();
        self.retry_evictions_at = Some(now.instant + EVICTION_RETRY);
        // The next changes get the revisions of this batch again: no probe may be for one of those.
        let directory = &self.registrations.directory;
        self.batch.effects.probe.retain(|probe| {
            let present = directory.get(probe.name.as_str());
            present.is_some_and(|entry| entry.revision == probe.revision)
        });
        for (request, answer) in std::mem::take(&mut self.batch.answers) {
            self.answer_unstored(request, &answer, problem, now);
        }
        let before = self.registrations.log.position().revision;
        self.end_batch(BatchEnd::RolledBack, &topics, before, now)
    }

    /// Between two batches: the history is lost, and a new epoch begins. Watches are answered with
    /// the next batch.
    pub fn reset_history(&mut self, epoch: u64) {
        self.subscriptions.lose_history(self.registrations.log.position().epoch);
        self.registrations.log.reset_history(epoch);
    }

    /// Everything that a store must keep that is empty, for this epoch.
    #[must_use]
    pub fn snapshot(&self, epoch: u64) -> Snapshot {
        let Registrations { directory, log, .. } = &self.registrations;
        let records = directory.iter().map(Entry::record).collect();
        Snapshot { epoch, revision: log.position().revision, records, history: Vec::new() }
    }

    /// The number of topics.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.registrations.directory.len()
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> RegistryCounters {
        self.counters
    }

    /// Whether a probe is under way.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.registrations.liveness.is_probing()
    }

    /// About how much work the present batch is: the bytes of its replies, and the steps of matching
    /// topics and events. A reply that was packed before costs nothing.
    #[must_use]
    pub fn cost(&self) -> usize {
        // Each change is matched with every pattern.
        let (changes, name_bytes) = self.registrations.log.staged_size();
        let matching = self.subscriptions.pattern_bytes() * (8 * changes + name_bytes) / 4;
        self.batch.cost + matching
    }

    /// When an [`Input::Tick`] answers a request that waits.
    #[must_use]
    pub fn next_answer(&self) -> Option<Instant> {
        let Liveness { pending, looks, .. } = &self.registrations.liveness;
        let deadlines = [pending.next_end(), looks.next_due(), self.subscriptions.next_end()];
        deadlines.into_iter().flatten().min()
    }

    /// When an [`Input::Tick`] probes an endpoint or ends a session.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        let lease = self.registrations.directory.next_session_end();
        let lease = lease.map(|end| self.retry_evictions_at.map_or(end, |again| again.max(end)));
        let has_dead = self.registrations.directory.has_dead();
        let eviction = self.retry_evictions_at.filter(|_| has_dead);
        let probe = self.registrations.liveness.next_probe();
        [probe, lease, eviction].into_iter().flatten().min()
    }

    fn receive(&mut self, request: PeerRequest, now: Timestamp) {
        self.counters.unreadable += u64::from(request.request.is_err());
        if request.is_req {
            self.cancel_waiting(request.reply_to.connection);
        }
        let has_room = self.registrations.liveness.pending.have_room_for(&request.peer);
        let on_doubt = if has_room { OnDoubt::Wait } else { OnDoubt::Refuse };
        self.decide(request, on_doubt, now.instant + MAX_REGISTER_WAIT, now);
    }

    /// Decides about a request. A REGISTER waits until `end` at most.
    fn decide(&mut self, request: PeerRequest, on_doubt: OnDoubt, end: Instant, now: Timestamp) {
        match self.decision(&request, on_doubt, now) {
            Decision::Answer(answer) => {
                self.counters.count_answer(&answer);
                self.batch.decided(request, answer, &self.cache);
            }
            Decision::Pending { name, revision } => {
                let pending = PendingRegister { request, name: name.clone(), revision, end };
                self.registrations.liveness.pending.add(pending);
                let (registrations, effects) = (&mut self.registrations, &mut self.batch.effects);
                probing::begin_look(registrations, effects, &name, now.instant);
            }
            Decision::Parked { condition, wait } => self.park(request, condition, wait, now),
        }
    }

    fn decision(&mut self, request: &PeerRequest, on_doubt: OnDoubt, now: Timestamp) -> Decision {
        let parts = RegistryParts {
            settings: &self.settings,
            started: self.started,
            registrations: &mut self.registrations,
            subscriptions: &self.subscriptions,
            cache: &mut self.cache,
            counters: &self.counters,
        };
        let (decision, cost) = requests::decide(parts, request, on_doubt, now);
        self.batch.cost += cost;
        decision
    }

    /// Answers a request of a batch that was rolled back. The registry decides about the request
    /// again, and refuses a change. A REGISTER that was accepted because a name had become free is
    /// refused for the store's sake, not for the topic's that has the name again.
    fn answer_unstored(
        &mut self,
        request: PeerRequest,
        former: &Answer,
        problem: &str,
        now: Timestamp,
    ) {
        let answer = match self.decision(&request, OnDoubt::Refuse, now) {
            Decision::Parked { condition, wait } => {
                return self.park(request, condition, wait, now);
            }
            Decision::Answer(answer) => Some(answer).filter(|answer| {
                let is_change = self.registrations.log.has_staged();
                let was_registered = matches!(former, Answer::Registered { .. });
                !(is_change || was_registered && answer.is_refusal())
            }),
            Decision::Pending { .. } => None,
        };
        self.registrations.rollback(now.instant);
        let answer = answer.unwrap_or_else(|| requests::not_stored(&request, problem));
        self.reply(request, answer, now);
    }

    fn reply(&mut self, request: PeerRequest, answer: Answer, now: Timestamp) {
        let context = ReplyContext {
            settings: &self.settings,
            log: &self.registrations.log,
            started: self.started,
            now,
        };
        self.batch.reply(request, answer, &context, &mut self.cache);
    }

    fn end_batch(
        &mut self,
        end: BatchEnd,
        topics: &[TopicName],
        before: u64,
        now: Timestamp,
    ) -> Effects {
        self.wake(end, topics, before, now);
        self.registrations.log.trim_history();
        let watches = self.registrations.directory.take_watch_changes();
        let Batch { mut effects, .. } = std::mem::take(&mut self.batch);
        effects.watch = watches.watch;
        effects.unwatch = watches.unwatch;
        effects
    }

    /// Parks a request for at most `wait`, unless its peer has disconnected in this batch.
    fn park(
        &mut self,
        request: PeerRequest,
        condition: WakeCondition,
        wait: Duration,
        now: Timestamp,
    ) {
        let PeerRequest { reply_to: to, peer, .. } = request;
        if self.batch.disconnected.contains(&to.connection) {
            return self.batch.effects.cancelled.push(to.connection);
        }
        let end = now.instant + wait;
        self.subscriptions.park(Waiter { to, uid: peer.uid, end, condition });
    }

    /// Forgets the parked requests and the pending REGISTERs of a connection: they get no reply.
    fn cancel_waiting(&mut self, connection: ConnectionId) {
        let parked = self.subscriptions.cancel(connection);
        let count = parked + self.registrations.liveness.pending.cancel(connection);
        self.batch.effects.cancelled.extend(std::iter::repeat_n(connection, count));
    }

    /// Answers the parked requests that wake with the end of the batch. `before` is the revision
    /// before it.
    fn wake(&mut self, end: BatchEnd, topics: &[TopicName], before: u64, now: Timestamp) {
        let Registrations { directory, log, .. } = &self.registrations;
        if let Some((epoch, watches)) = self.subscriptions.take_lost() {
            // Their next request is one of another epoch, and gets a snapshot.
            let body = pack_no_events(Since { epoch, ..log.position() });
            for Waiter { to, .. } in watches {
                let body = ReplyBody::Packed(Arc::clone(&body));
                self.batch.push_reply(to, DiscoveryStatus::Ok, body);
            }
        }
        let is_registered = |name: &TopicName| directory.find(name.as_str()).is_some();
        let woken = self.subscriptions.take_woken(end, topics, is_registered, now.instant);
        let context = ReplyContext { settings: &self.settings, log, started: self.started, now };
        self.batch.answer_woken(woken, before, directory, &context, &mut self.cache);
    }

    fn tick(&mut self, all_dispatched: bool, now: Timestamp) {
        self.begin_probes(now);
        if self.retry_evictions_at.is_none_or(|again| again <= now.instant) {
            self.retry_evictions_at = None;
            for (name, reason) in self.registrations.directory.dead_topics() {
                self.evict(&name, reason, now);
            }
            // A RENEW that came in time may not have been dispatched yet.
            let grace = if all_dispatched { Duration::ZERO } else { DISPATCH_GRACE };
            let end = now.instant.checked_sub(grace).unwrap_or(now.instant);
            for name in self.registrations.directory.topics_of_ended_sessions(end) {
                self.evict(&name, EvictionReason::LeaseExpired, now);
            }
        }
        for pending in probing::end_pending_registers(&mut self.registrations, now.instant) {
            self.decide(pending.request, OnDoubt::Refuse, pending.end, now);
        }
    }

    fn evict(&mut self, name: &TopicName, reason: EvictionReason, now: Timestamp) {
        self.registrations.evict(name, reason);
        self.retry_pending_registers(|pending| pending.name == *name, OnDoubt::Wait, now);
    }

    fn begin_probes(&mut self, now: Timestamp) {
        probing::begin_probes(&mut self.registrations, &mut self.batch.effects, now.instant);
    }

    /// Ends a look that has found the name taken.
    fn end_look(&mut self, name: &TopicName, now: Timestamp) {
        self.registrations.liveness.looks.end(name);
        self.retry_pending_registers(|pending| pending.name == *name, OnDoubt::Refuse, now);
    }

    fn judge(&mut self, name: &TopicName, judgement: Judgement, now: Timestamp) {
        match judgement {
            Judgement::None => {}
            Judgement::Evict(reason) => self.evict(name, reason, now),
            Judgement::NameFree => {
                // The owner may live: its topic goes only because a REGISTER takes the name.
                let reason = EventKind::Evicted(EvictionReason::EndpointDead);
                self.registrations.remove(name, reason);
                self.retry_pending_registers(|pending| pending.name == *name, OnDoubt::Wait, now);
            }
            Judgement::NameTaken => self.end_look(name, now),
        }
    }

    fn process_checked(&mut self, process: Process, now: Timestamp) {
        let Self { registrations, batch, .. } = self;
        for name in probing::process_checked(registrations, &mut batch.effects, process) {
            self.end_look(&name, now);
        }
    }

    /// Decides again about the pending REGISTERs that `is_over` picks, in the order in which they
    /// came. `on_doubt` is for those that another registration stands against by now.
    fn retry_pending_registers(
        &mut self,
        is_over: impl Fn(&PendingRegister) -> bool,
        on_doubt: OnDoubt,
        now: Timestamp,
    ) {
        for pending in self.registrations.liveness.pending.take(is_over) {
            let PendingRegister { request, name, revision, end, .. } = pending;
            let present = self.registrations.directory.get(name.as_str());
            let is_another = present.map(|entry| entry.revision) != Some(revision);
            let on_doubt = if is_another { on_doubt } else { OnDoubt::Refuse };
            self.decide(request, on_doubt, end, now);
        }
    }
}
