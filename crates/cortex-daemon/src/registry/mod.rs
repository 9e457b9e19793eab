//! The core: the registered topics, what keeps them registered, and what each request does.
//!
//! The registry knows no clock, no socket and no file. What happens outside comes in as an
//! [`Input`] with the time; what the daemon must do goes out as [`Effects`]. So a test can play the
//! life of a whole fleet without either.
//!
//! Changes are committed in batches. [`Registry::begin_commit`] hands out what the store must keep
//! of all changes so far. Then [`Registry::commit`] makes them count, or [`Registry::rollback`] takes
//! them back. In the meantime the registry goes on: further changes are for the next batch, and
//! requests that only read are answered from what is committed. A request that changes something is
//! decided when it comes and answered with its commit, and so are later requests of its connection.

mod answer;
mod batch;
mod commits;
mod counters;
mod directory;
mod due_evictions;
mod effect;
mod input;
mod liveness;
mod log;
mod outbox;
mod probing;
mod registrations;
mod reply;
mod reply_cache;
mod requests;
mod settings;
mod subscriptions;
#[cfg(test)]
mod test_time;
mod view;
mod waiting_requests;

use std::time::Instant;

use cortex_proto::{DecodeError, DiscoveryCommand, DiscoveryRequest, RequestedCommand, TopicName};

use crate::peer::{ConnectionId, Process};
use answer::{Answer, ReplyContext};
use batch::Batch;
pub use counters::RegistryCounters;
pub use directory::access::Access;
use due_evictions::DueEvictions;
pub use effect::{Effects, Miss, NameConflict, ProbeRequest, Refusal};
pub use input::{Input, PeerRequest, ProbeResult, Timestamp, UnknownReason, UnreadableRequest};
use liveness::Liveness;
use liveness::pending_registers::{MAX_REGISTER_WAIT, PendingRegister};
pub use log::record::{Change, Event, EventKind, EvictionReason, Hold, Record, Snapshot, Write};
use outbox::Outbox;
use probing::Judgement;
use registrations::Registrations;
pub use reply::{Reply, ReplyBody, Stats};
use reply_cache::ReplyCache;
use requests::RegistryParts;
use requests::decision::Decision;
use requests::register::OnDoubt;
pub use settings::{Limits, Settings};
use subscriptions::Subscriptions;
use subscriptions::waiters::{Waiter, WakeCondition};
use view::View;
pub use waiting_requests::WaitingRequests;

/// The cost of a request in a batch that is parked afterwards, in bytes and steps.
const PARKED_COST: usize = 64;

/// The registered topics and the protocol's rules: dispatch over parts that know nothing of each
/// other's insides.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    started: Instant,
    registrations: Registrations,
    subscriptions: Subscriptions,
    cache: ReplyCache,
    /// The requests that are answered with the next commit.
    batch: Batch,
    /// The requests that are answered with the commit under way, if one is.
    committing: Option<Batch>,
    outbox: Outbox,
    counters: RegistryCounters,
    due_evictions: DueEvictions,
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
            committing: None,
            outbox: Outbox::default(),
            counters: RegistryCounters::default(),
            due_evictions: DueEvictions::default(),
        })
    }

    /// Takes what has happened. Its changes wait for the next
    /// [`begin_commit`](Self::begin_commit).
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
            Input::Tick { waiting } => self.tick(&waiting, now),
            Input::TimeGap => {
                self.registrations.directory.renew_all_sessions(now.instant);
                self.registrations.liveness.time_gap();
            }
            Input::GaveUp(connection) => self.give_up(connection, now.instant),
            Input::Disconnected(connection) => {
                for batch in self.committing.iter_mut().chain([&mut self.batch]) {
                    batch.note_disconnected(connection);
                }
                self.cancel_waiting(connection);
            }
            Input::ShuttingDown => {
                self.end_pending_registers(|_| true, now);
                self.subscriptions.shut_down();
            }
        }
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

    /// About how much work the present round is: the bytes of its replies, and the steps of matching
    /// topics and events. A reply that was packed before costs nothing.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.outbox.cost
    }

    /// About how much work the next commit is, in the same unit.
    #[must_use]
    pub fn commit_cost(&self) -> usize {
        // Each change is matched with every pattern.
        let (changes, name_bytes) = self.registrations.log.write_size();
        let matching = self.subscriptions.pattern_bytes() * (8 * changes + name_bytes) / 4;
        self.batch.cost + matching
    }

    /// Whether a request is answered with the next commit: it may change something, or answers
    /// before it on its connection wait as well.
    #[must_use]
    pub fn waits_for_commit(&self, request: &PeerRequest) -> bool {
        let connection = request.reply_to.connection;
        request.request.as_ref().is_ok_and(|request| is_change(request))
            || self.batch.has(connection)
            || self.committing.as_ref().is_some_and(|batch| batch.has(connection))
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
        let eviction = self.due_evictions.next(&self.registrations.directory);
        let probe = self.registrations.liveness.next_probe();
        probe.into_iter().chain(eviction).min()
    }

    fn receive(&mut self, request: PeerRequest, now: Timestamp) {
        self.counters.unreadable += u64::from(request.request.is_err());
        if request.is_req {
            self.give_up(request.reply_to.connection, now.instant);
        }
        let has_room = self.registrations.liveness.pending.have_room_for(&request.peer);
        let on_doubt = if has_room { OnDoubt::Wait } else { OnDoubt::Refuse };
        self.decide(request, on_doubt, now.instant + MAX_REGISTER_WAIT, now);
    }

    /// Decides about a request. A REGISTER waits until `end` at most.
    fn decide(&mut self, request: PeerRequest, on_doubt: OnDoubt, end: Instant, now: Timestamp) {
        let view = if self.waits_for_commit(&request) { View::Latest } else { View::Committed };
        match self.decision(&request, view, on_doubt, now) {
            Decision::Answer(answer) => {
                self.counters.count_answer(&answer);
                let cost = answer.cost(&self.cache);
                self.outbox.cost += cost;
                match view {
                    View::Committed => self.reply(request, answer, now),
                    View::Latest => self.batch.add(request, Some(answer), cost, now.instant),
                }
            }
            Decision::Pending { name, revision } => {
                let pending = PendingRegister { request, name: name.clone(), revision, end };
                self.registrations.liveness.pending.add(pending);
                let (registrations, effects) = (&mut self.registrations, &mut self.outbox.effects);
                probing::begin_look(registrations, effects, &name, now.instant);
            }
            // Not before the changes that it has seen are committed: until then others may wake it
            // with what was before them.
            Decision::Parked { .. } if view == View::Latest => {
                self.batch.add(request, None, PARKED_COST, now.instant);
            }
            Decision::Parked { condition, wait } => {
                self.park(request, condition, now.instant + wait);
            }
        }
    }

    fn decision(
        &mut self,
        request: &PeerRequest,
        view: View,
        on_doubt: OnDoubt,
        now: Timestamp,
    ) -> Decision {
        let parts = RegistryParts {
            settings: &self.settings,
            started: self.started,
            registrations: &mut self.registrations,
            view,
            subscriptions: &mut self.subscriptions,
            cache: &mut self.cache,
            counters: &self.counters,
        };
        let (decision, cost) = requests::decide(parts, request, on_doubt, now);
        self.outbox.cost += cost;
        if let Decision::Answer(Answer::Cancelled { count }) = decision {
            self.outbox.cancelled(request.reply_to.connection, count);
        }
        decision
    }

    fn reply(&mut self, request: PeerRequest, answer: Answer, now: Timestamp) {
        let context = ReplyContext {
            settings: &self.settings,
            log: &self.registrations.log,
            started: self.started,
            now,
        };
        self.outbox.reply(request, answer, &context, &mut self.cache);
    }

    /// Parks a request until `end` at most.
    fn park(&mut self, request: PeerRequest, condition: WakeCondition, end: Instant) {
        let PeerRequest { reply_to: to, peer, .. } = request;
        self.subscriptions.park(Waiter { to, uid: peer.uid, end, condition });
    }

    /// A REQ peer has sent a new request: its former ones get no reply.
    fn give_up(&mut self, connection: ConnectionId, now: Instant) {
        for batch in self.committing.iter_mut().chain([&mut self.batch]) {
            batch.give_up(connection, now);
        }
        self.cancel_waiting(connection);
    }

    /// Forgets the parked requests and the pending REGISTERs of a connection: they get no reply.
    fn cancel_waiting(&mut self, connection: ConnectionId) {
        let parked = self.subscriptions.cancel(connection);
        let count = parked + self.registrations.liveness.pending.cancel(connection);
        self.outbox.cancelled(connection, count);
    }

    /// Whether a lease is over. Then the next [`Input::Tick`] must say which requests wait.
    #[must_use]
    pub fn has_ended_lease(&self, now: Instant) -> bool {
        self.registrations.directory.next_session_end().is_some_and(|end| end <= now)
    }

    fn tick(&mut self, waiting: &WaitingRequests, now: Timestamp) {
        self.begin_probes(now);
        let directory = &self.registrations.directory;
        for (name, reason) in self.due_evictions.take(directory, waiting, now.instant) {
            self.evict(&name, reason, now);
        }
        self.end_pending_registers(|pending| pending.end <= now.instant, now);
    }

    /// Decides about the pending REGISTERs that `is_over` picks, without waiting any longer.
    fn end_pending_registers(
        &mut self,
        is_over: impl Fn(&PendingRegister) -> bool,
        now: Timestamp,
    ) {
        for pending in probing::end_pending_registers(&mut self.registrations, is_over) {
            self.decide(pending.request, OnDoubt::Refuse, pending.end, now);
        }
    }

    fn evict(&mut self, name: &TopicName, reason: EvictionReason, now: Timestamp) {
        self.registrations.evict(name, reason);
        self.retry_pending_registers(|pending| pending.name == *name, OnDoubt::Wait, now);
    }

    fn begin_probes(&mut self, now: Timestamp) {
        probing::begin_probes(&mut self.registrations, &mut self.outbox.effects, now.instant);
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
        let Self { registrations, outbox, .. } = self;
        for name in probing::process_checked(registrations, &mut outbox.effects, process) {
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

/// Whether a request may change what is stored.
fn is_change(request: &DiscoveryRequest) -> bool {
    use DiscoveryCommand::{RegisterTopic, UnregisterTopic};
    let changes = [RegisterTopic, UnregisterTopic].map(RequestedCommand::Known);
    changes.contains(&request.command)
}
