//! The daemon: one poll, one round after the other.
//!
//! A round takes in what happened (processes' ends and looks at endpoints before requests), lets
//! the registry decide, stores what has changed, performs the effects in order, and sends. New
//! connections come last, so that those that have just closed make room for them.

use std::io;
use std::time::{Duration, Instant};

use cortex_proto::TopicName;
use mio::{Events, Interest, Poll, Token};

use crate::audit_log;
use crate::config::{Address, Config, State};
use crate::deferred_queue::DeferredQueue;
use crate::edge::clock::{SuspendDetector, now, timestamp};
use crate::edge::connections::Connections;
use crate::edge::descriptors::DescriptorBudget;
use crate::edge::listener::Listener;
use crate::edge::log_limit::LogLimit;
use crate::edge::probe::Probes;
use crate::edge::processes::{Host, Processes, WatchOutcome, host};
use crate::edge::random::random_u64;
use crate::edge::stop::{StopHandle, StopSource};
use crate::edge::store::Store;
use crate::error::{BindError, RunError};
use crate::peer::Process;
use crate::registry::{Effects, Input, PeerRequest, ProbeResult, Registry, Timestamp};
use crate::startup::restore;

const STOP: Token = Token(usize::MAX - 1);
// Tokens below 2^16 are listeners; processes and probes have a range each, and connections, which
// count up for ever, all that is above.
const PROCESS_TOKENS: std::ops::Range<usize> = (1 << 16)..(1 << 32);
const PROBE_TOKENS: std::ops::Range<usize> = (1 << 32)..(1 << 48);
const FIRST_CONNECTION: usize = 1 << 48;
const MAX_ROUND_EVENTS: usize = 1024;
/// With more work than this, in bytes made and ns, a batch is over: what is left comes next.
const MAX_BATCH_COST: usize = 256 * 1024;
/// How often the socket files and the state file are looked at.
const FILE_CHECK: Duration = Duration::from_secs(1);
/// How long peers have at the end to take the replies that they are owed.
const LAST_REPLIES: Duration = Duration::from_millis(40);
/// At a start, the most findings that are taken together.
const MAX_BATCH_INPUTS: usize = 4096;
/// How long the first looks at restored topics may take before requests are served.
const SETTLING: Duration = Duration::from_millis(250);

/// A discovery daemon that listens already.
///
/// ```no_run
/// use cortex_daemon::{Config, DiscoveryDaemon};
///
/// let daemon = DiscoveryDaemon::bind(&Config::at("ipc:///tmp/demo/discovery.sock".parse()?))?;
/// let stop = daemon.stop_handle();
/// let running = std::thread::spawn(move || daemon.run());
/// stop.stop();
/// running.join().expect("the daemon does not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiscoveryDaemon {
    poll: Poll,
    listeners: Vec<Listener>,
    connections: Connections,
    processes: Processes,
    probes: Probes,
    registry: Registry,
    store: Store,
    state: State,
    host: Host,
    /// What happened, for the next batch.
    inbox: Vec<Input>,
    /// Empty between two calls.
    findings: Vec<(TopicName, u64, ProbeResult)>,
    /// Requests that were read and not dispatched yet.
    deferred: DeferredQueue,
    /// Some of them could be dispatched now.
    is_behind: bool,
    stop_handle: StopHandle,
    stop_source: StopSource,
    suspend_detector: SuspendDetector,
    store_log: LogLimit,
    refusal_log: LogLimit,
    next_file_check: Instant,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Round,
    Stop,
}

impl DiscoveryDaemon {
    /// Listens at all addresses of `config`, and takes up the topics of its state. Nobody is
    /// answered before [`run`](Self::run).
    ///
    /// # Errors
    /// When an address or the state cannot be had; then nothing is kept.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Self::bind_with(config, StopHandle::new()?)
    }

    /// As [`bind`](Self::bind), with a handle that was there before: whoever has it, such as a
    /// signal handler, can end the daemon from the first moment on.
    ///
    /// # Errors
    /// As `bind`.
    pub fn bind_with(config: &Config, stop_handle: StopHandle) -> Result<Self, BindError> {
        if config.addresses.is_empty() {
            return Err(BindError::NoAddress);
        }
        let poll = Poll::new()?;
        let mut stop_source = StopSource::of(&stop_handle)?;
        poll.registry().register(stop_source.source(), STOP, Interest::READABLE)?;
        // The socket's lock comes first: whoever has it has the state to itself.
        let mut listeners = Vec::new();
        for (index, address) in config.addresses.iter().enumerate() {
            if config.addresses[..index].contains(address) {
                continue;
            }
            let mut listener = Listener::bind(address, config.socket_mode)?;
            listener.register(poll.registry(), Token(listeners.len()))?;
            listeners.push(listener);
        }
        let host = host();
        let (store, registry) = restore(config, &host)?;
        for listener in &listeners {
            tracing::info!(address = %listener.address(), "listening");
            warn_if_exposed(listener.address());
        }
        let budget = DescriptorBudget::new(config.max_connections);
        let registrar = || poll.registry().try_clone();
        Ok(Self {
            listeners,
            connections: Connections::new(registrar()?, FIRST_CONNECTION, budget.connections),
            processes: Processes::new(registrar()?, PROCESS_TOKENS, budget.processes),
            probes: Probes::new(registrar()?, PROBE_TOKENS, budget.probes),
            poll,
            registry,
            store,
            state: config.state.clone(),
            host,
            inbox: Vec::new(),
            findings: Vec::new(),
            deferred: DeferredQueue::default(),
            is_behind: false,
            stop_handle,
            stop_source,
            suspend_detector: SuspendDetector::new(),
            store_log: LogLimit::new(1),
            refusal_log: LogLimit::new(100),
            next_file_check: now() + FILE_CHECK,
        })
    }

    /// Where it listens; a port 0 has become the one that the system chose.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(Listener::address)
    }

    /// Ends the daemon, from any thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop_handle.clone()
    }

    /// Serves until SHUTDOWN or [`StopHandle::stop`]. Then every reply that is owed is sent, as
    /// far as its peer takes it within 40 ms, and the socket files are removed.
    ///
    /// # Errors
    /// When the daemon can't serve any more.
    pub fn run(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(MAX_ROUND_EVENTS);
        let end = self.serve(&mut events);
        self.finish(&mut events)?;
        end
    }

    fn serve(&mut self, events: &mut Events) -> Result<(), RunError> {
        let mut next = self.settle(events)?;
        let mut received = Vec::new();
        while next == Next::Round {
            next = self.round(events, &mut received)?;
        }
        Ok(())
    }

    /// Finds out which of the restored topics' publishers still live, before anybody is answered.
    /// Only waiting for endpoints that don't answer has an end: what can be told at once is told.
    fn settle(&mut self, events: &mut Events) -> Result<Next, RunError> {
        let end = now() + SETTLING;
        let mut next = self.decide(&mut Vec::new(), timestamp());
        while next == Next::Round {
            let is_waiting = self.inbox.is_empty() && !self.probes.has_results();
            if is_waiting && !self.registry.is_probing() {
                break;
            }
            let left = end.saturating_duration_since(now());
            if is_waiting && left.is_zero() {
                tracing::info!("some endpoints have not answered yet: their topics stay for now");
                break;
            }
            self.wait(events, if is_waiting { left } else { Duration::ZERO })?;
            next = self.mark(events);
            while self.probes.has_results() && self.inbox.len() < MAX_BATCH_INPUTS {
                self.take_findings();
            }
            if self.decide(&mut Vec::new(), timestamp()) == Next::Stop {
                next = Next::Stop;
            }
        }
        tracing::info!(topics = self.registry.topic_count(), "serving");
        Ok(next)
    }

    fn round(
        &mut self,
        events: &mut Events,
        received: &mut Vec<PeerRequest>,
    ) -> Result<Next, RunError> {
        let planned = self.next_wake_up(now());
        self.wait(events, planned.saturating_duration_since(now()))?;
        // One reading for all that follows: time must not run out between two of them.
        let woken = timestamp();
        if self.suspend_detector.detects_gap(planned, woken.instant) {
            tracing::info!("time has passed unseen: sessions get a full term");
            self.inbox.push(Input::TimeGap);
        }
        let is_crowded = events.iter().count() >= MAX_ROUND_EVENTS;
        let mut next = self.mark(events);
        self.take_findings();
        self.connections.collect(&self.processes, received, woken.instant);
        if self.decide(received, woken) == Next::Stop {
            next = Next::Stop;
        }
        self.connections.flush();
        if next == Next::Round {
            self.take_connections(is_crowded, now());
            self.check_files(now())?;
        }
        Ok(next)
    }

    /// One batch: the registry takes what happened and what was asked, what it changes is stored,
    /// and then its effects are performed.
    fn decide(&mut self, received: &mut Vec<PeerRequest>, now: Timestamp) -> Next {
        for input in std::mem::take(&mut self.inbox) {
            self.registry.handle(input, now);
        }
        self.dispatch(received, now);
        for connection in self.connections.take_disconnected() {
            self.registry.handle(Input::Disconnected(connection), now);
        }
        let all_dispatched = !self.connections.has_turns()
            && self.deferred.is_empty()
            && !self.listeners.iter().any(Listener::is_ready)
            && self.connections.newcomers_until().is_none_or(|until| until <= now.instant);
        self.registry.handle(Input::Tick { all_dispatched }, now);
        let effects = match self.store.save(self.registry.writes()) {
            Ok(()) => self.registry.commit(now),
            Err(error) => {
                if let Some(suppressed) = self.store_log.allow(now.instant) {
                    tracing::error!(suppressed, "{error}");
                }
                self.registry.rollback(&error.to_string(), now)
            }
        };
        self.perform(effects)
    }

    /// Hands over what was held and what was received, except what is asked by peers that must
    /// first read what they were sent, and what goes beyond a batch's work.
    fn dispatch(&mut self, received: &mut Vec<PeerRequest>, now: Timestamp) {
        let had_deferred = !self.deferred.is_empty();
        for request in received.drain(..) {
            let connection = request.reply_to.connection;
            // A peer's later requests stay behind its earlier ones.
            if had_deferred
                || self.registry.cost() >= MAX_BATCH_COST
                || self.deferred.contains(connection)
                || self.connections.has_backpressure(connection)
            {
                self.deferred.push(request);
            } else {
                self.registry.handle(Input::Request(request), now);
            }
        }
        while self.registry.cost() < MAX_BATCH_COST {
            let connections = &self.connections;
            let is_ready = |connection| !connections.has_backpressure(connection);
            let Some(request) = self.deferred.next(is_ready) else {
                self.is_behind = false;
                return;
            };
            let connection = request.reply_to.connection;
            self.registry.handle(Input::Request(request), now);
            // The peer may have disconnected since: it reads no reply.
            if self.connections.is_disconnected(connection) {
                self.registry.handle(Input::Disconnected(connection), now);
            }
        }
        self.is_behind = !self.deferred.is_empty();
    }

    /// The counters and gauges of what is around the registry.
    fn figures(&self) -> Vec<(&'static str, u64)> {
        let counters = self.connections.counters();
        vec![
            ("connections", self.connections.len() as u64),
            ("processes", self.processes.len() as u64),
            ("accepted", counters.accepted),
            ("refused", counters.refused),
            ("violations", counters.violations),
            ("dropped", counters.dropped),
            ("requests", counters.requests),
        ]
    }

    fn perform(&mut self, effects: Effects) -> Next {
        for change in &effects.changed {
            audit_log::change(change);
        }
        for refusal in &effects.refused {
            if let Some(suppressed) = self.refusal_log.allow(now()) {
                audit_log::refusal(refusal, suppressed);
            }
        }
        for reply in effects.replies {
            let body = reply.body.into_bytes(|| self.figures());
            let (connection, bytes) = (reply.to.connection.0, body.len());
            tracing::debug!(connection, status = %reply.status, bytes, "answered");
            self.connections.reply(&reply.to, &body);
        }
        for connection in effects.cancelled {
            self.connections.cancel(connection);
        }
        for process in effects.unwatch {
            self.processes.unwatch(process);
        }
        for process in effects.watch {
            self.watch(process);
        }
        for process in effects.check {
            if self.processes.has_exited(process) {
                self.end_of(process);
            } else if !self.processes.is_exiting(process) {
                self.inbox.push(Input::ProcessChecked(process));
            }
        }
        for probe in effects.probe {
            self.probes.start(probe.name, probe.revision, &probe.address);
        }
        if effects.stop {
            tracing::info!("shut down by a client");
            return Next::Stop;
        }
        Next::Round
    }

    /// A process's end also answers whoever waits for a look at it.
    fn end_of(&mut self, process: Process) {
        self.inbox.push(Input::ProcessExited(process));
        self.inbox.push(Input::ProcessChecked(process));
    }

    fn take_findings(&mut self) {
        self.probes.take_results(now(), &mut self.findings);
        let told = self.findings.drain(..).map(|(name, revision, result)| Input::EndpointProbed {
            name,
            revision,
            result,
        });
        self.inbox.extend(told);
    }

    fn watch(&mut self, process: Process) {
        match self.processes.watch(process) {
            WatchOutcome::Alive => {}
            WatchOutcome::Exited => self.inbox.push(Input::ProcessExited(process)),
            WatchOutcome::Unseen => self.inbox.push(Input::ProcessUnseen(process)),
        }
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        let mut timeout = timeout;
        loop {
            match self.poll.poll(events, Some(timeout)) {
                // A signal, such as the one that lets us go on after a stop: what has come
                // meanwhile is heard before the clock is.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    timeout = Duration::ZERO;
                }
                result => return result,
            }
        }
    }

    /// Until when the poll may sleep.
    fn next_wake_up(&self, now: Instant) -> Instant {
        let someone_waits = self.listeners.iter().any(Listener::is_ready);
        let is_busy = self.connections.has_turns()
            || self.is_behind
            || !self.inbox.is_empty()
            || self.probes.has_results()
            || (someone_waits && !self.connections.is_pausing(now));
        if is_busy {
            return now;
        }
        // A lease that ends while newcomers may have something to say waits for them.
        let newcomers = self.connections.newcomers_until();
        let check = self.registry.next_check();
        let deadlines = [
            self.connections.next_deadline(),
            self.registry.next_answer(),
            check.map(|due| newcomers.map_or(due, |until| due.max(until))),
            self.probes.next_deadline(),
        ];
        deadlines.into_iter().flatten().fold(self.next_file_check, Instant::min)
    }

    fn mark(&mut self, events: &Events) -> Next {
        let mut next = Next::Round;
        for event in events {
            let token = event.token();
            if token == STOP {
                if self.stop_source.is_requested() {
                    tracing::info!("asked to stop");
                    next = Next::Stop;
                }
            } else if let Some(listener) = self.listeners.get_mut(token.0) {
                listener.mark_ready();
            } else if self.processes.owns(token) {
                if let Some(process) = self.processes.take_exited(token) {
                    self.end_of(process);
                }
            } else if self.probes.owns(token) {
                self.probes.mark(token);
            } else {
                self.connections.mark(event);
            }
        }
        next
    }

    fn take_connections(&mut self, is_crowded: bool, now: Instant) {
        self.connections.expire(now);
        for listener in self.listeners.iter_mut().filter(|listener| listener.is_ready()) {
            // While it is full, and more connections may have closed than one poll can tell,
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
        if self.store.is_lost() {
            self.recreate_state_file();
        }
        Ok(())
    }

    /// The state file was deleted under us: all goes into a new one. The history is gone with the
    /// old one, so another begins.
    fn recreate_state_file(&mut self) {
        let State::File(path) = &self.state else { return };
        let epoch = random_u64();
        let snapshot = self.registry.snapshot(epoch);
        self.store.mark_lost();
        let written = Store::open(path).and_then(|(mut store, _)| {
            store.reset(&snapshot, &self.host)?;
            Ok(store)
        });
        match written {
            Ok(store) => {
                self.store = store;
                self.registry.reset_history(epoch);
                // Who watches is told with the next batch: now.
                self.inbox.push(Input::Tick { all_dispatched: false });
                tracing::warn!("the state file was deleted or replaced: a new one is written");
            }
            Err(error) => tracing::error!("the state file was deleted or replaced: {error}"),
        }
    }

    /// Gives peers a moment to take their last replies.
    fn finish(mut self, events: &mut Events) -> Result<(), RunError> {
        // First of all the socket files go, so that clients turn to the next daemon.
        self.listeners.clear();
        // Whoever waits for a look at somebody else is answered without.
        self.inbox.push(Input::ShuttingDown);
        self.decide(&mut Vec::new(), timestamp());
        self.connections.flush();
        let deadline = now() + LAST_REPLIES;
        while !self.connections.all_sent() {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                tracing::warn!("some peers did not take their last replies");
                break;
            }
            self.wait(events, left)?;
            self.mark(events);
            self.connections.flush();
        }
        self.connections.discard_input();
        let (transport, registry) = (self.connections.counters(), self.registry.counters());
        tracing::info!(
            topics = self.registry.topic_count(),
            connections = transport.accepted,
            refused = transport.refused,
            violations = transport.violations,
            requests = transport.requests,
            dropped = transport.dropped,
            unreadable = registry.unreadable,
            over_limit = registry.over_limit,
            no_access = registry.no_access,
            evicted = registry.evicted,
            not_stored = registry.not_stored,
            "stopped"
        );
        Ok(())
    }
}

/// Over TCP nobody is known, and this protocol has no encryption.
fn warn_if_exposed(address: &Address) {
    if let Address::Tcp { host, .. } = address
        && !host.is_loopback()
    {
        tracing::warn!(
            %address,
            "every machine that reaches this address can register and unregister topics here, \
             unencrypted: use it only in a network that you trust"
        );
    }
}
