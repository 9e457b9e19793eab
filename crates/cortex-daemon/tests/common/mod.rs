//! A simulated environment for the registry: processes that run and end, endpoints that a probe
//! finds alive or dead, a store that can fail, and a clock that only the test advances.

#![allow(dead_code, reason = "each test file uses its part of it")]

pub(crate) mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cortex_daemon::peer::{ConnectionId, EndpointListener, PeerIdentity, Process, ReplyTo};
pub(crate) use cortex_daemon::registry::Settings;
use cortex_daemon::registry::{
    Access, Change, Effects, Event, Input, Limits, Miss, NameConflict, PeerRequest, ProbeResult,
    Record, Refusal, Registry, Snapshot, Timestamp, WaitingRequests, Write,
};
use cortex_daemon::zmtp::Envelope;
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, TopicInfo, TopicName};

pub(crate) const DAEMON_UID: u32 = 500;
/// The edge's only counter in a [`World`], which STATS returns as `connections`.
pub(crate) const CONNECTIONS: u64 = 12;
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) fn settings() -> Settings {
    Settings {
        limits: Limits::default(),
        access: Access { daemon_uid: DAEMON_UID, allow_remote_shutdown: false },
        probe_interval: PROBE_INTERVAL,
        unreachable_after: Some(Duration::from_secs(24 * 60 * 60)),
        server: "cortex-discovery/test".into(),
        pid: 42,
        history: 65_536,
    }
}

pub(crate) fn process(pid: u32) -> Process {
    Process { pid, start_time: u64::from(pid) * 100 }
}

/// A peer over a Unix socket: the daemon knows its user and process.
pub(crate) fn local(uid: u32, pid: u32) -> PeerIdentity {
    PeerIdentity { uid: Some(uid), process: Some(process(pid)), is_local: true }
}

/// A process that never ends, is older than every registration, and for which others register.
pub(crate) const PUBLISHER: EndpointListener =
    EndpointListener::Process(Process { pid: 1, start_time: 1 });

/// A peer over TCP: the daemon cannot identify its user or process.
pub(crate) const REMOTE: PeerIdentity = PeerIdentity { uid: None, process: None, is_local: false };

pub(crate) fn info(name: &str, node: &str) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: format!("ipc:///tmp{name}.{node}.sock"),
        message_type: "M".into(),
        fingerprint: 1,
        publisher_node: node.into(),
    }
}

/// The destination of a request's reply. Each request has its own connection, which has the
/// request's number.
pub(crate) fn reply_to(number: usize) -> ReplyTo {
    ReplyTo { connection: ConnectionId(number), envelope: Envelope::default() }
}

/// A registry and its simulated environment. Each method that delivers inputs also performs their
/// effects, until none are left.
pub(crate) struct World {
    pub(crate) registry: Registry,
    settings: Settings,
    pub(crate) now: Timestamp,
    pub(crate) exited: BTreeSet<Process>,
    /// The processes that the daemon cannot watch.
    pub(crate) unseen: BTreeSet<Process>,
    /// The result of a probe by address. Probes of all other addresses find `Alive`.
    pub(crate) endpoints: BTreeMap<String, ProbeResult>,
    /// What listens by address, where probes find a listener. At all other addresses it is
    /// [`PUBLISHER`].
    pub(crate) listeners: BTreeMap<String, EndpointListener>,
    /// Probes that wait for [`World::finish_probes`]. With `None` each probe has its result at once.
    pub(crate) delayed_probes: Option<Vec<(TopicName, u64, String)>>,
    pub(crate) stored: BTreeMap<TopicName, Record>,
    pub(crate) events: Vec<(TopicName, Event)>,
    pub(crate) disk_is_full: bool,
    /// How many further rounds a commit takes. Within these, [`World::finish_commit`] ends it.
    pub(crate) commit_rounds: usize,
    /// What the store has under way, and for how many further rounds.
    under_way: Option<(Vec<Write>, usize)>,
    /// The users whose requests wait in the edge.
    pub(crate) waiting: WaitingRequests,
    pub(crate) watched: BTreeSet<Process>,
    pub(crate) changes: Vec<Change>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) conflicts: Vec<NameConflict>,
    pub(crate) missed: Vec<Miss>,
    /// The replies with an empty envelope, by connection.
    pub(crate) replies: BTreeMap<usize, DiscoveryResponse>,
    /// The replies with another envelope.
    pub(crate) enveloped_replies: Vec<(ReplyTo, DiscoveryResponse)>,
    pub(crate) stopped: bool,
    /// The connections of parked requests that get no reply.
    pub(crate) cancelled: Vec<usize>,
    /// The bytes of all replies. A large reply that several peers share counts once.
    pub(crate) reply_bytes: usize,
    last_request: usize,
    revision: u64,
    epoch: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings(), Snapshot { epoch: 7, ..Snapshot::default() })
    }

    pub(crate) fn with(settings: Settings, snapshot: Snapshot) -> Self {
        #[expect(clippy::disallowed_methods, reason = "some instant to start from")]
        let now = Timestamp { instant: Instant::now(), unix_ms: 1_000_000, boot_ticks: 1_000_000 };
        let (revision, epoch) = (snapshot.revision, snapshot.epoch);
        let events = snapshot.history.clone();
        let stored = snapshot.records.iter().map(|r| (r.name.clone(), r.clone())).collect();
        Self {
            registry: Registry::restore(settings.clone(), snapshot, now).unwrap(),
            settings,
            now,
            exited: BTreeSet::new(),
            unseen: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            listeners: BTreeMap::new(),
            delayed_probes: None,
            stored,
            events,
            disk_is_full: false,
            commit_rounds: 0,
            under_way: None,
            waiting: WaitingRequests::default(),
            watched: BTreeSet::new(),
            changes: Vec::new(),
            refusals: Vec::new(),
            conflicts: Vec::new(),
            missed: Vec::new(),
            replies: BTreeMap::new(),
            enveloped_replies: Vec::new(),
            stopped: false,
            cancelled: Vec::new(),
            reply_bytes: 0,
            last_request: 0,
            revision,
            epoch,
        }
    }

    /// The state that a restarted daemon loads.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut records: Vec<_> = self.stored.values().cloned().collect();
        records.sort_by_key(|record| record.order);
        let history = self.events.clone();
        Snapshot { epoch: self.epoch, revision: self.revision, records, history }
    }

    /// Kills the daemon and starts it again. Parked requests lose their connections; processes and
    /// endpoints stay as they are.
    pub(crate) fn restart(&mut self) {
        self.replies.clear();
        self.registry =
            Registry::restore(self.settings.clone(), self.snapshot(), self.now).unwrap();
        self.watched.clear();
        self.under_way = None;
        self.deliver(Vec::new());
    }

    /// Sends a request and returns its number. The reply may come later.
    pub(crate) fn send(&mut self, peer: PeerIdentity, request: DiscoveryRequest) -> usize {
        self.last_request += 1;
        self.deliver(vec![self.request_input(peer, request)]);
        self.last_request
    }

    /// Starts a new epoch with an empty history, as the daemon does when its state file is lost.
    pub(crate) fn reset_history(&mut self, epoch: u64) {
        // The daemon does that only between two commits.
        self.end_commit();
        self.epoch = epoch;
        self.events.clear();
        self.registry.reset_history(epoch);
        self.deliver(Vec::new());
    }

    fn request_input(&self, peer: PeerIdentity, request: DiscoveryRequest) -> Input {
        let from = reply_to(self.last_request);
        Input::Request(PeerRequest {
            reply_to: from,
            peer,
            is_req: false,
            request: Ok(Box::new(request)),
        })
    }

    /// Sends a request and returns its reply. A REGISTER may be pending for 300 ms. Panics if the
    /// request is parked.
    pub(crate) fn call(
        &mut self,
        peer: PeerIdentity,
        request: DiscoveryRequest,
    ) -> DiscoveryResponse {
        let number = self.send(peer, request);
        self.take_reply(number)
    }

    /// The reply to a request, which may come within 300 ms.
    fn take_reply(&mut self, number: usize) -> DiscoveryResponse {
        for _ in 0..6 {
            if !self.replies.contains_key(&number) {
                self.advance_ms(50);
            }
        }
        self.replies.remove(&number).unwrap()
    }

    /// Sends requests in one batch and returns their replies. Panics if a request is parked.
    pub(crate) fn call_batch(
        &mut self,
        requests: Vec<(PeerIdentity, DiscoveryRequest)>,
    ) -> Vec<DiscoveryResponse> {
        let numbers = self.send_batch(requests);
        numbers.into_iter().map(|number| self.take_reply(number)).collect()
    }

    /// Sends requests in one batch and returns their numbers.
    pub(crate) fn send_batch(
        &mut self,
        requests: Vec<(PeerIdentity, DiscoveryRequest)>,
    ) -> Vec<usize> {
        let first = self.last_request + 1;
        let inputs = requests
            .into_iter()
            .map(|(peer, request)| {
                self.last_request += 1;
                self.request_input(peer, request)
            })
            .collect();
        self.deliver(inputs);
        (first..=self.last_request).collect()
    }

    pub(crate) fn list(&mut self) -> Vec<TopicInfo> {
        self.call(REMOTE, DiscoveryRequest::list()).topics
    }

    /// The stored topics that a LIST lacks: they are dead, and their eviction is not stored.
    pub(crate) fn hidden(&self, list: &[TopicInfo]) -> Vec<TopicName> {
        let is_hidden = |name: &&TopicName| list.iter().all(|info| info.name != **name);
        self.stored.keys().filter(is_hidden).cloned().collect()
    }

    pub(crate) fn names(&mut self) -> Vec<String> {
        self.list().into_iter().map(|info| info.name.to_string()).collect()
    }

    /// Ends a process. If the daemon watches it, the registry gets [`Input::ProcessExited`].
    pub(crate) fn kill(&mut self, process: Process) {
        self.exited.insert(process);
        if self.watched.remove(&process) {
            self.deliver(vec![Input::ProcessExited(process)]);
        }
    }

    /// Ends a process whose exit the poll has not reported yet.
    pub(crate) fn kill_unnoticed(&mut self, process: Process) {
        self.exited.insert(process);
    }

    pub(crate) fn set_endpoint(&mut self, address: &str, result: ProbeResult) {
        self.endpoints.insert(address.to_owned(), result);
    }

    /// Advances the clock by a second at a time, with a tick after each.
    pub(crate) fn advance(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.advance_ms(1000);
        }
    }

    /// Lets some ms pass in one step.
    pub(crate) fn advance_ms(&mut self, ms: u64) {
        self.now.instant += Duration::from_millis(ms);
        self.now.unix_ms += ms;
        self.now.boot_ticks += ms / 10;
        self.deliver(Vec::new());
    }

    /// Delivers the results of the delayed probes. Later probes are not delayed.
    pub(crate) fn finish_probes(&mut self) {
        let delayed = self.delayed_probes.take().unwrap_or_default();
        let results = delayed
            .into_iter()
            .map(|(name, revision, address)| self.probe_input(name, revision, &address))
            .collect();
        self.deliver(results);
    }

    fn probe_input(&self, name: TopicName, revision: u64, address: &str) -> Input {
        let result = self.endpoints.get(address).copied().unwrap_or(ProbeResult::Alive);
        let is_served = matches!(result, ProbeResult::Alive | ProbeResult::Silent);
        let listener = self.listeners.get(address).copied().or(Some(PUBLISHER));
        let listener = listener.filter(|_| is_served);
        Input::EndpointProbed { name, revision, result, listener }
    }

    /// Delivers a batch as the daemon does, then the inputs that its effects cause, batch by batch.
    pub(crate) fn deliver(&mut self, batch: Vec<Input>) {
        let mut batch = batch;
        loop {
            match &mut self.under_way {
                Some((_, 0)) => self.end_commit(),
                Some((_, rounds)) => *rounds -= 1,
                None => {}
            }
            for input in batch.drain(..) {
                self.registry.handle(input, self.now);
            }
            self.registry.handle(Input::Tick { waiting: self.waiting.clone() }, self.now);
            if self.under_way.is_none() {
                let writes = self.registry.begin_commit(self.now);
                self.under_way = writes.map(|writes| (writes, self.commit_rounds));
                if self.commit_rounds == 0 {
                    self.end_commit();
                }
            }
            let effects = self.registry.take_effects(self.now);
            batch = self.perform(effects);
            if batch.is_empty() {
                return;
            }
        }
    }

    /// Lets the store end what it has under way.
    fn end_commit(&mut self) {
        let Some((writes, _)) = self.under_way.take() else { return };
        if self.disk_is_full {
            self.registry.rollback("the disk is full", self.now);
        } else {
            self.store(writes);
            self.registry.commit(self.now);
        }
    }

    pub(crate) fn is_committing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Lets the slow store end the commit under way. The next one begins.
    pub(crate) fn finish_commit(&mut self) {
        self.end_commit();
        self.deliver(Vec::new());
    }

    fn store(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write.record {
                Some(record) => self.stored.insert(write.name.clone(), record),
                None => self.stored.remove(&write.name),
            };
            if let Some(event) = write.event {
                assert_eq!(event.revision, self.revision + 1, "revisions have no gap");
                self.revision = event.revision;
                self.events.push((write.name, event));
            }
        }
    }

    fn perform(&mut self, effects: Effects) -> Vec<Input> {
        let mut next = Vec::new();
        self.changes.extend(effects.changed);
        self.refusals.extend(effects.refused);
        self.conflicts.extend(effects.conflicts);
        self.missed.extend(effects.missed);
        self.stopped |= effects.stop;
        self.cancelled.extend(effects.cancelled.iter().map(|connection| connection.0));
        let mut shared = BTreeSet::new();
        for reply in effects.replies {
            let body = reply.body.into_bytes(|| vec![("connections", CONNECTIONS)]);
            if body.len() < 4096 || shared.insert(body.as_ptr()) {
                self.reply_bytes += body.len();
            }
            let response = DiscoveryResponse::from_bytes(&body).unwrap();
            assert_eq!(response.status, reply.status);
            if reply.to.envelope != Envelope::default() {
                self.enveloped_replies.push((reply.to, response));
                continue;
            }
            let before = self.replies.insert(reply.to.connection.0, response);
            assert_eq!(before, None, "a request is answered once");
        }
        for process in effects.unwatch {
            assert!(self.watched.remove(&process), "only a watched process is unwatched");
        }
        for process in effects.watch {
            if self.exited.contains(&process) {
                next.push(Input::ProcessExited(process));
            } else if self.unseen.contains(&process) {
                next.push(Input::ProcessUnseen(process));
            } else {
                assert!(self.watched.insert(process), "a process is watched once");
            }
        }
        for process in effects.check {
            if self.exited.contains(&process) {
                self.watched.remove(&process);
                next.push(Input::ProcessExited(process));
            }
            next.push(Input::ProcessChecked(process));
        }
        for probe in effects.probe {
            let (name, revision) = (probe.name, probe.revision);
            match &mut self.delayed_probes {
                Some(delayed) => delayed.push((name, revision, probe.address)),
                None => next.push(self.probe_input(name, revision, &probe.address)),
            }
        }
        next
    }
}
