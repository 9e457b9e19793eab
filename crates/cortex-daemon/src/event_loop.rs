//! One poll, one round after the other.
//!
//! A round takes what has happened (the end of a commit, ends of processes and results of probes
//! before requests), lets the registry decide, gives the store's thread what has changed, performs
//! the effects in order, and sends. New connections come last, so that those that have just closed
//! make room for them.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use crate::config::Config;
use crate::deferred_queue::DeferredQueue;
use crate::edge::clock::{SuspendDetector, now, timestamp};
use crate::edge::connections::Connections;
use crate::edge::descriptors::DescriptorBudget;
use crate::edge::listener::Listener;
use crate::edge::log_limit::LogLimit;
use crate::edge::probe::{ProbeAnswer, ProbeOutcome, Probes, SharedFolders};
use crate::edge::processes::{Host, Processes};
use crate::edge::stop::{StopHandle, StopSource};
use crate::edge::store::Store;
use crate::error::RunError;
use crate::peer::Process;
use crate::persistence::Persistence;
use crate::registry::{Input, PeerRequest, Registry, Timestamp, WaitingRequests};

mod perform;

const STOP: Token = Token(usize::MAX - 1);
/// The store has a result.
const STORE: Token = Token(usize::MAX - 2);
// Tokens below 2^16 are listeners. Processes and probes have a range each. Connections have all
// tokens above, since their numbers are never used again.
const PROCESS_TOKENS: std::ops::Range<usize> = (1 << 16)..(1 << 32);
const PROBE_TOKENS: std::ops::Range<usize> = (1 << 32)..(1 << 48);
const FIRST_CONNECTION: usize = 1 << 48;
const MAX_ROUND_EVENTS: usize = 1024;
/// A round, and what one commit has to do after it, end at this cost, in bytes and steps: the daemon
/// defers further requests.
const MAX_COST: usize = 256 * 1024;
/// At a start, the most results of probes in one round.
const MAX_RESTORE_INPUTS: usize = 4096;
/// The time between two checks of the socket files and the state file.
const FILE_CHECK: Duration = Duration::from_secs(1);

/// The registry, and everything around it that the poll watches.
pub(crate) struct EventLoop {
    poll: Poll,
    /// The events of the present round.
    events: Events,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) connections: Connections,
    processes: Processes,
    probes: Probes,
    pub(crate) registry: Registry,
    pub(crate) persistence: Persistence,
    /// What has happened, for the next round.
    pub(crate) inbox: Vec<Input>,
    /// Empty between two calls.
    probe_answers: Vec<ProbeAnswer>,
    /// Empty between two rounds.
    received: Vec<PeerRequest>,
    deferred: DeferredQueue,
    /// Whether the last round has ended for its cost, and deferred requests are ready.
    is_behind: bool,
    /// Whether changes are refused, since the daemon stops and the store is slow.
    refuses_changes: bool,
    stop_source: StopSource,
    suspend_detector: SuspendDetector,
    /// When the poll before the present one returned: what it did not report has come since.
    last_poll: Instant,
    refusal_log: LogLimit,
    next_file_check: Instant,
}

/// What a round is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The owners of restored topics are judged. The daemon accepts no connections.
    Restoring,
    /// Requests are answered.
    Serving,
    /// The last requests are answered, and none is parked any more. The listeners are closed.
    Stopping,
}

impl EventLoop {
    /// A loop that accepts connections at the listeners, and stores the registry's changes.
    pub(crate) fn new(
        mut listeners: Vec<Listener>,
        registry: Registry,
        state: (Store, Option<PathBuf>, Host),
        config: &Config,
        stop_handle: &StopHandle,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STORE)?;
        let wake = move || {
            if let Err(error) = waker.wake() {
                tracing::error!(%error, "cannot wake the event loop after a commit");
            }
        };
        let (store, path, host) = state;
        let persistence = Persistence::start(store, path, host, wake)?;
        let mut stop_source = StopSource::of(stop_handle)?;
        poll.registry().register(stop_source.source(), STOP, Interest::READABLE)?;
        for (index, listener) in listeners.iter_mut().enumerate() {
            listener.register(poll.registry(), Token(index))?;
        }
        let budget = DescriptorBudget::new(config.max_connections);
        let poll_registry = || poll.registry().try_clone();
        Ok(Self {
            listeners,
            connections: Connections::new(poll_registry()?, FIRST_CONNECTION, budget.connections),
            processes: Processes::new(poll_registry()?, PROCESS_TOKENS, budget.processes),
            probes: Probes::new(
                poll_registry()?,
                PROBE_TOKENS,
                budget.probes,
                SharedFolders::of(&config.addresses),
                config.probe_helper.as_deref(),
            ),
            poll,
            events: Events::with_capacity(MAX_ROUND_EVENTS),
            registry,
            persistence,
            inbox: Vec::new(),
            probe_answers: Vec::new(),
            received: Vec::new(),
            deferred: DeferredQueue::default(),
            is_behind: false,
            refuses_changes: false,
            stop_source,
            suspend_detector: SuspendDetector::new(),
            last_poll: now(),
            refusal_log: LogLimit::new(100),
            next_file_check: now() + FILE_CHECK,
        })
    }

    /// Whether nothing has happened that the registry does not know yet.
    pub(crate) fn has_no_input(&self) -> bool {
        self.inbox.is_empty() && !self.probes.has_answers()
    }

    /// Whether requests that were read can be dispatched without waiting for a peer.
    pub(crate) fn has_requests(&self) -> bool {
        self.connections.has_turns() || self.is_behind
    }

    /// Whether all requests that were read are answered, and the system has taken all replies.
    pub(crate) fn is_all_answered(&mut self) -> bool {
        !self.connections.has_turns()
            && self.deferred.is_empty()
            && !self.registry.is_committing()
            && self.connections.all_sent()
    }

    /// Whether the store has a job under way.
    pub(crate) fn is_storing(&self) -> bool {
        self.persistence.is_busy()
    }

    /// Refuses changes from now on, except those that the store has under way.
    pub(crate) fn refuse_changes(&mut self) {
        self.refuses_changes = true;
    }

    /// One round, which begins with an event or at `wake_up`.
    pub(crate) fn round(
        &mut self,
        phase: Phase,
        wake_up: Instant,
    ) -> Result<ControlFlow<()>, RunError> {
        self.wait(wake_up.saturating_duration_since(now()))?;
        // The whole round has one time: no deadline may pass between two of its inputs.
        let woken = timestamp();
        if self.suspend_detector.detects_gap(wake_up, woken.instant) {
            tracing::info!("the daemon stood still for a while: sessions get a full lease");
            self.inbox.push(Input::TimeGap);
        }
        let is_crowded = self.events.iter().count() >= MAX_ROUND_EVENTS;
        let mut flow = self.mark_ready(woken.instant);
        self.inbox.extend(self.processes.poll(woken.instant).into_iter().flat_map(exited));
        self.take_probe_answers(phase);
        if phase != Phase::Restoring {
            self.connections.collect(&self.processes, &mut self.received, woken.instant);
        }
        if self.decide(phase, woken)?.is_break() {
            flow = ControlFlow::Break(());
        }
        self.connections.flush();
        if phase == Phase::Serving && flow.is_continue() {
            self.accept_connections(is_crowded, now());
            self.check_files(now())?;
        }
        self.last_poll = woken.instant;
        Ok(flow)
    }

    /// The registry handles what has happened and the requests, the store begins to keep the
    /// changes, and the daemon performs the effects.
    fn decide(&mut self, phase: Phase, now: Timestamp) -> io::Result<ControlFlow<()>> {
        // Not only when the new requests are dispatched: what has happened may answer the waiting
        // ones before, and a new request may be deferred.
        for request in self.received.iter().filter(|request| request.is_req) {
            self.registry.handle(Input::GaveUp(request.reply_to.connection), now);
        }
        self.persistence.end_commit(&mut self.registry, now)?;
        for input in std::mem::take(&mut self.inbox) {
            self.registry.handle(input, now);
        }
        self.dispatch(now);
        if phase == Phase::Stopping {
            // Also those that were dispatched just now must not wait.
            self.registry.handle(Input::ShuttingDown, now);
        }
        for connection in self.connections.take_disconnected() {
            self.registry.handle(Input::Disconnected(connection), now);
        }
        let waiting = self.waiting_requests(now.instant);
        self.registry.handle(Input::Tick { waiting }, now);
        if !self.refuses_changes {
            self.persistence.begin_commit(&mut self.registry, now)?;
        } else if !self.persistence.is_busy() && self.registry.is_committing() {
            self.registry.rollback("the daemon is stopping", now);
        }
        // Requests that had no place in this commit are ready for the next one, also when the
        // answers that filled it have changed nothing.
        let (connections, registry) = (&self.connections, &self.registry);
        self.is_behind |= self.deferred.any(|next| is_ready(connections, registry, next));
        let effects = self.registry.take_effects(now);
        Ok(self.perform(effects))
    }

    /// The users whose requests wait, if a lease is over.
    fn waiting_requests(&self, now: Instant) -> WaitingRequests {
        let mut waiting = WaitingRequests::default();
        if self.registry.has_ended_lease(now) {
            self.deferred.note_waiting(&mut waiting);
            self.connections.note_unread(&mut waiting, now);
            let unaccepted = self.listeners.iter().filter_map(Listener::ready_since);
            unaccepted.for_each(|since| waiting.add_any_user(since));
        }
        waiting
    }

    /// Dispatches the deferred and the received requests, up to a round's cost. A connection is not
    /// read while one of its requests is deferred.
    fn dispatch(&mut self, now: Timestamp) {
        let mut received = std::mem::take(&mut self.received);
        for request in received.drain(..) {
            let connection = request.reply_to.connection;
            // A peer's later requests stay behind its earlier ones.
            if self.is_behind
                || self.registry.cost() >= MAX_COST
                || self.deferred.contains(connection)
                || !is_ready(&self.connections, &self.registry, &request)
            {
                let since = self.connections.input_since(connection).unwrap_or(now.instant);
                self.connections.hold(connection);
                self.deferred.push(request, since);
            } else {
                self.registry.handle(Input::Request(request), now);
            }
        }
        self.received = received;
        while self.registry.cost() < MAX_COST {
            let (connections, registry) = (&self.connections, &self.registry);
            let Some(request) = self.deferred.next(|next| is_ready(connections, registry, next))
            else {
                self.is_behind = false;
                return;
            };
            let connection = request.reply_to.connection;
            if !self.deferred.contains(connection) {
                self.connections.release(connection);
            }
            self.registry.handle(Input::Request(request), now);
            // The peer may have disconnected since: it reads no reply.
            if self.connections.is_disconnected(connection) {
                self.registry.handle(Input::Disconnected(connection), now);
            }
        }
        self.is_behind = !self.deferred.is_empty();
    }

    /// Takes the results of probes. At a start many of them come in one round, so that the store
    /// has few transactions.
    fn take_probe_answers(&mut self, phase: Phase) {
        loop {
            self.probes.take_answers(now(), &mut self.probe_answers);
            let answers = self.probe_answers.drain(..);
            self.inbox.extend(answers.map(|ProbeAnswer { name, revision, outcome }| {
                let ProbeOutcome { result, listener } = outcome;
                Input::EndpointProbed { name, revision, result, listener }
            }));
            let is_restoring = phase == Phase::Restoring;
            let has_room = self.inbox.len() < MAX_RESTORE_INPUTS;
            if !(is_restoring && has_room && self.probes.has_answers()) {
                return;
            }
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut timeout = timeout;
        loop {
            match self.poll.poll(&mut self.events, Some(timeout)) {
                // A signal, such as SIGCONT after a stop. The poll reports the events up to now
                // before the daemon reads the clock.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    timeout = Duration::ZERO;
                }
                result => return result,
            }
        }
    }

    /// When the next round must begin without an event.
    pub(crate) fn next_wake_up(&self, now: Instant) -> Instant {
        let may_accept = self.listeners.iter().any(Listener::is_ready);
        let is_busy = self.has_requests()
            || !self.inbox.is_empty()
            || self.probes.has_answers()
            || (may_accept && !self.connections.is_pausing(now));
        if is_busy {
            return now;
        }
        let deadlines = [
            self.connections.next_deadline(),
            self.registry.next_answer(),
            self.registry.next_check(),
            self.processes.next_deadline(),
            self.probes.next_deadline(),
        ];
        deadlines.into_iter().flatten().fold(self.next_file_check, Instant::min)
    }

    /// Marks the sources that the poll's events name as ready.
    fn mark_ready(&mut self, now: Instant) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        for event in &self.events {
            let token = event.token();
            if token == STOP {
                if self.stop_source.is_requested() {
                    tracing::info!("asked to stop");
                    flow = ControlFlow::Break(());
                }
            } else if token == STORE {
                // `decide` takes the result.
            } else if let Some(listener) = self.listeners.get_mut(token.0) {
                listener.mark_ready(self.last_poll);
            } else if self.processes.owns(token) {
                if let Some(process) = self.processes.take_exited(token) {
                    self.inbox.extend(exited(process));
                }
            } else if self.probes.owns(token) {
                self.probes.mark(token);
            } else {
                self.connections.mark(event, self.last_poll, now);
            }
        }
        flow
    }

    fn accept_connections(&mut self, is_crowded: bool, now: Instant) {
        self.connections.expire(now);
        for listener in self.listeners.iter_mut().filter(|listener| listener.is_ready()) {
            // At the limit, and while more connections may have closed than one poll can report,
            // new ones wait for the next round.
            if !(is_crowded && self.connections.is_full()) {
                self.connections.accept(listener, now);
            }
        }
        self.connections.flush();
    }

    fn check_files(&mut self, now: Instant) -> Result<(), RunError> {
        if now < self.next_file_check {
            return Ok(());
        }
        self.next_file_check = now + FILE_CHECK;
        if let Some(path) = self.listeners.iter().find_map(Listener::lost_file) {
            return Err(RunError::SocketLost(path.to_owned()));
        }
        self.persistence.check_file();
        Ok(())
    }
}

/// Whether a request can be dispatched. One that changes something waits while the next commit is
/// large enough, and one of a peer that must read some replies first waits for that.
fn is_ready(connections: &Connections, registry: &Registry, request: &PeerRequest) -> bool {
    !connections.has_backpressure(request.reply_to.connection)
        && (registry.commit_cost() < MAX_COST || !registry.waits_for_commit(request))
}

/// The end of a process is also the result of a check of it.
fn exited(process: Process) -> [Input; 2] {
    [Input::ProcessExited(process), Input::ProcessChecked(process)]
}
