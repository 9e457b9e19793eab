//! The manager with a simulated daemon, in virtual time.

use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, EndpointState,
    EntryExt, RequestedCommand, ResponseExt,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::error::SocketError;
use crate::protocol::reply::RawReply;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the simulated daemon needs for a handshake, and for an answer.
const LATENCY: Duration = Duration::from_millis(1);
const IPC: &str = "ipc:///run/discovery.sock";
const TCP: &str = "tcp://10.0.0.1:5550";

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn info(name: &str, node: &str) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: "ipc:///tmp/a".into(),
        message_type: "T".into(),
        fingerprint: 7,
        publisher_node: node.into(),
    }
}

fn no_answer(address: &str) -> Error {
    Error::NoAnswer { address: address.into(), waited: TIMEOUT, attempts: 1, cause: None }
}

#[derive(Clone, Debug)]
struct Entry {
    info: TopicInfo,
    session: Option<String>,
    is_ours: bool,
    revision: u64,
}

/// A daemon with the manager as its only client. The test adds and removes the topics of others.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a test turns each behaviour on and off")]
struct SimulatedDaemon {
    is_extended: bool,
    sees_process: bool,
    refuses: bool,
    /// The daemon accepts connections, but neither carries out requests nor answers them.
    is_unresponsive: bool,
    entries: Vec<Entry>,
    /// When each session ends.
    sessions: HashMap<String, Instant>,
    revision: u64,
}

impl SimulatedDaemon {
    fn new(is_extended: bool, sees_process: bool) -> Self {
        Self {
            is_extended,
            sees_process,
            refuses: false,
            is_unresponsive: false,
            entries: Vec::new(),
            sessions: HashMap::new(),
            revision: 0,
        }
    }

    fn find(&mut self, name: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.info.name.as_str() == name)
    }

    fn remove(&mut self, name: &str) {
        self.entries.retain(|entry| entry.info.name.as_str() != name);
    }

    fn expire(&mut self, now: Instant) {
        let sessions = &mut self.sessions;
        sessions.retain(|_, end| *end > now);
        self.entries
            .retain(|entry| entry.session.as_ref().is_none_or(|id| sessions.contains_key(id)));
    }

    fn insert(&mut self, info: TopicInfo, session: Option<String>, is_ours: bool) -> u64 {
        self.revision += 1;
        let revision = self.revision;
        let entry = Entry { info, session, is_ours, revision };
        let name = entry.info.name.clone();
        match self.find(name.as_str()) {
            Some(existing) => *existing = entry,
            None => self.entries.push(entry),
        }
        revision
    }

    fn answer(&mut self, request: &DiscoveryRequest, now: Instant) -> DiscoveryResponse {
        let mut ext = ResponseExt::default();
        let mut response = self.carry_out(request, &mut ext, now);
        if self.is_extended && request.ext.is_some() {
            response.ext = Some(ext);
        }
        response
    }

    fn carry_out(
        &mut self,
        request: &DiscoveryRequest,
        ext: &mut ResponseExt,
        now: Instant,
    ) -> DiscoveryResponse {
        let asked = request.ext.clone().unwrap_or_default();
        let respond = DiscoveryResponse::new;
        if self.refuses {
            return respond(DiscoveryStatus::Error, "not today");
        }
        let RequestedCommand::Known(command) = request.command else { panic!("{request:?}") };
        let name = request.topic_name.clone().unwrap_or_default();
        match command {
            DiscoveryCommand::RegisterTopic => {
                let info = request.topic_info.clone().unwrap();
                let session = asked.session.filter(|_| self.is_extended);
                if let Some(session) = &session {
                    ext.lease_ms = session.lease_ms;
                }
                let id = session.as_ref().map(|session| session.id.clone());
                let existing = self.find(info.name.as_str());
                if let Some(node) = existing.as_ref().map(|entry| &entry.info.publisher_node)
                    && *node != info.publisher_node
                {
                    let message = format!("Topic {} already registered by {node}", info.name);
                    return respond(DiscoveryStatus::AlreadyExists, &message);
                }
                let unchanged = existing.filter(|entry| entry.info == info && entry.session == id);
                ext.revision = match unchanged {
                    Some(entry) => Some(entry.revision),
                    None => Some(self.insert(info, id.clone(), true)),
                };
                if let Some(id) = id {
                    self.sessions.insert(id, now + LEASE);
                }
                respond(DiscoveryStatus::Ok, "registered")
            }
            DiscoveryCommand::UnregisterTopic => {
                let is_extended = self.is_extended;
                let Some(entry) = self.find(&name) else {
                    return respond(DiscoveryStatus::NotFound, "not found");
                };
                let is_other = asked.publisher_node.as_ref() != Some(&entry.info.publisher_node);
                let is_changed = asked.revision.is_some_and(|known| known != entry.revision);
                if is_extended && (is_other || is_changed) {
                    return respond(DiscoveryStatus::Error, "the condition does not hold");
                }
                assert!(entry.is_ours, "another's topic was withdrawn: {entry:?}");
                self.remove(&name);
                respond(DiscoveryStatus::Ok, "unregistered")
            }
            DiscoveryCommand::LookupTopic => {
                let sees_process = self.sees_process;
                let Some(entry) = self.find(&name) else {
                    return respond(DiscoveryStatus::NotFound, "not found");
                };
                ext.entry = Some(EntryExt {
                    uid: None,
                    pid: sees_process.then_some(if entry.is_ours { 7 } else { 8 }),
                    hold: Hold::Process,
                    revision: entry.revision,
                    age_ms: 0,
                    endpoint: EndpointState::Unknown,
                    endpoint_reason: None,
                });
                let topic_info = Some(entry.info.clone());
                DiscoveryResponse { topic_info, ..respond(DiscoveryStatus::Ok, "") }
            }
            DiscoveryCommand::Renew if self.is_extended => {
                let end = self.sessions.get_mut(&asked.session.unwrap().id);
                ext.known = Some(end.is_some());
                ext.lease_ms = Some(millis(LEASE));
                if let Some(end) = end {
                    *end = now + LEASE;
                }
                respond(DiscoveryStatus::Ok, "")
            }
            DiscoveryCommand::Renew => respond(DiscoveryStatus::Error, "Failed to parse request"),
            DiscoveryCommand::ListTopics
            | DiscoveryCommand::Ping
            | DiscoveryCommand::WaitTopic
            | DiscoveryCommand::WatchTopics
            | DiscoveryCommand::Stats
            | DiscoveryCommand::Cancel
            | DiscoveryCommand::Shutdown => panic!("the manager never sends {request:?}"),
        }
    }
}

#[derive(Debug)]
enum Delivery {
    Handshake,
    Answer(Box<DiscoveryResponse>),
}

/// The manager, its daemon, and the connection between them.
struct World {
    start: Instant,
    now: Instant,
    manager: AdvertisementManager,
    daemon: SimulatedDaemon,
    is_up: bool,
    is_connected: bool,
    in_transit: Option<(Instant, Delivery)>,
    /// When the manager sent the request that has no answer yet.
    asked_at: Option<Instant>,
    /// When the manager sent each request.
    requests: Vec<(Duration, DiscoveryRequest)>,
    events: Vec<(AdvertisementId, AdvertisementEvent)>,
}

impl World {
    fn new(address: &str, daemon: SimulatedDaemon) -> Self {
        let start = Instant::now();
        let settings = AdvertisementSettings {
            address: address.into(),
            timeout: TIMEOUT,
            session_id: "session".into(),
        };
        Self {
            start,
            now: start,
            manager: AdvertisementManager::new(settings),
            daemon,
            is_up: true,
            is_connected: false,
            in_transit: None,
            asked_at: None,
            requests: Vec::new(),
            events: Vec::new(),
        }
    }

    fn add(&mut self, id: AdvertisementId, info: TopicInfo) {
        self.manager.add(id, info, self.now);
    }

    /// Passes time, and carries out the manager's actions.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut idle_rounds = 0;
        loop {
            self.daemon.expire(self.now);
            if self.is_up && !self.is_connected && self.in_transit.is_none() {
                self.in_transit = Some((self.now + LATENCY, Delivery::Handshake));
            }
            let next = self.manager.next_action(self.now);
            self.events.extend(self.manager.take_events());
            let wake = match next {
                Action::Send(query) => {
                    let request = DiscoveryRequest::from_bytes(&query.body).unwrap();
                    assert!(self.is_connected, "not connected: {request:?}");
                    assert!(self.asked_at.is_none(), "one at a time: {request:?}");
                    assert_eq!(query.policy.timeout, TIMEOUT);
                    self.asked_at = Some(self.now);
                    self.requests.push((self.now - self.start, request.clone()));
                    if !self.daemon.is_unresponsive {
                        let answer = self.daemon.answer(&request, self.now);
                        self.in_transit =
                            Some((self.now + LATENCY, Delivery::Answer(Box::new(answer))));
                    }
                    continue;
                }
                Action::Wait(wake) => wake,
                action @ (Action::List { .. } | Action::Finish) => panic!("{action:?}"),
            };
            let arrives = self.in_transit.as_ref().map(|(at, _)| *at);
            let gives_up = self.asked_at.map(|at| at + TIMEOUT);
            let event = [wake, arrives, gives_up].into_iter().flatten().min();
            let event = event.filter(|at| *at <= end);
            idle_rounds = if event == Some(self.now) { idle_rounds + 1 } else { 0 };
            assert!(idle_rounds < 10, "the manager spins");
            let Some(at) = event else {
                self.now = end;
                return;
            };
            self.now = at;
            if arrives == Some(at)
                && let Some((_, in_transit)) = self.in_transit.take()
            {
                match in_transit {
                    Delivery::Handshake => {
                        self.is_connected = true;
                        self.manager.connected();
                    }
                    Delivery::Answer(answer) => {
                        let asked_at = self.asked_at.take().unwrap();
                        let raw = RawReply::for_test(&answer, asked_at, self.now);
                        self.manager.outcome(Outcome::Reply(raw), self.now);
                    }
                }
            } else if gives_up == Some(at) {
                self.asked_at = None;
                self.manager.outcome(Outcome::NoAnswer { was_lost: false }, self.now);
            }
        }
    }

    /// Stops the daemon.
    fn down(&mut self) {
        self.is_up = false;
        self.in_transit = None;
        if std::mem::take(&mut self.is_connected) {
            if self.asked_at.take().is_some() {
                self.manager.outcome(Outcome::Lost, self.now);
            }
            self.manager.disconnected(self.now);
        }
    }

    fn up(&mut self) {
        self.is_up = true;
    }

    fn replace(&mut self, daemon: SimulatedDaemon) {
        self.down();
        self.daemon = daemon;
        self.up();
    }

    fn events_of(&mut self, id: AdvertisementId) -> Vec<AdvertisementEvent> {
        self.events.extend(self.manager.take_events());
        self.events
            .iter()
            .filter(|(whose, _)| *whose == id)
            .map(|(_, event)| event.clone())
            .collect()
    }

    fn names(&self) -> Vec<&str> {
        self.daemon.entries.iter().map(|entry| entry.info.name.as_str()).collect()
    }

    /// The commands of the requests since the last call.
    fn commands(&mut self) -> Vec<DiscoveryCommand> {
        let commands = self.requests.drain(..).map(|(_, request)| match request.command {
            RequestedCommand::Known(command) => command,
            RequestedCommand::Unknown(number) => panic!("{number}"),
        });
        commands.collect()
    }
}

use DiscoveryCommand::{LookupTopic, RegisterTopic, Renew, UnregisterTopic};

fn registered(hold: impl Into<Option<Hold>>) -> AdvertisementEvent {
    AdvertisementEvent::Registered { hold: hold.into() }
}

#[test]
fn the_process_is_the_hold_when_the_daemon_sees_it() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.add(1, info("/b", "node"));
    world.add(2, info("/a", "node"));
    world.run(ms(100));
    assert_eq!(world.commands(), [RegisterTopic, LookupTopic, RegisterTopic]);
    assert_eq!(world.names(), ["/b", "/a"], "in the order of their advertisements");
    assert_eq!(world.events_of(1), [registered(Hold::Process)]);
    assert_eq!(world.events_of(2), [registered(Hold::Process)]);
    assert!(world.daemon.entries.iter().all(|entry| entry.session.is_none()));

    world.run(Duration::from_secs(60));
    assert_eq!(
        world.commands(),
        [LookupTopic; 2 * 12],
        "a look at each topic every 5 s, and no other request"
    );
    assert_eq!(world.daemon.revision, 2);
    assert_eq!(world.events.len(), 2, "and gives no event");
}

#[test]
fn a_session_is_the_hold_when_the_daemon_cannot_see_the_process() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, false));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    assert_eq!(world.commands(), [RegisterTopic, LookupTopic, RegisterTopic]);
    assert_eq!(world.events_of(1), [registered(Hold::Session)]);

    let mut world = World::new(TCP, SimulatedDaemon::new(true, false));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    assert_eq!(world.commands(), [RegisterTopic], "over TCP the first REGISTER has a session");
    assert_eq!(world.events_of(1), [registered(Hold::Session)]);
    assert_eq!(world.daemon.entries[0].session.as_deref(), Some("session"));
    for _ in 0..240 {
        world.run(ms(250));
        assert_eq!(world.names(), ["/a"]);
    }
    let commands = world.commands();
    let renewals = commands.iter().filter(|command| **command == Renew).count();
    assert!((11..=24).contains(&renewals), "at a quarter of the lease: {renewals}");
}

#[test]
fn a_reference_daemon_has_no_holds() {
    for address in [IPC, TCP] {
        let mut world = World::new(address, SimulatedDaemon::new(false, false));
        world.add(1, info("/a", "node"));
        world.run(Duration::from_secs(5));
        assert_eq!(world.commands(), [&[RegisterTopic][..], &[LookupTopic; 4]].concat());
        assert_eq!(world.events_of(1), [registered(None)]);
    }
}

#[test]
fn a_daemon_that_starts_late_is_reported_as_missing_and_then_used() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.down();
    world.add(1, info("/a", "node"));
    world.run(ms(4_999));
    assert_eq!(world.events_of(1), []);
    world.run(Duration::from_secs(600));
    assert_eq!(world.events_of(1), [AdvertisementEvent::Trouble(no_answer(IPC))], "once");
    world.add(2, info("/b", "node"));
    world.run(ms(1));
    assert_eq!(
        world.events_of(2),
        [AdvertisementEvent::Trouble(no_answer(IPC))],
        "a later advertisement gets the report too"
    );
    assert!(world.requests.is_empty());
    world.up();
    world.run(ms(10));
    assert_eq!(world.names(), ["/a", "/b"]);
    assert_eq!(world.events_of(1)[1..], [registered(Hold::Process)]);
}

#[test]
fn all_topics_are_registered_again_at_once_after_a_restart() {
    let daemons = [
        SimulatedDaemon::new(true, true),
        SimulatedDaemon::new(false, false),
        SimulatedDaemon::new(true, false),
    ];
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    let names: Vec<_> = (0..100).map(|number| format!("/{number:03}")).collect();
    for (id, name) in (1..).zip(&names) {
        world.add(id, info(name, "node"));
    }
    world.run(Duration::from_secs(1));
    for daemon in daemons {
        world.replace(daemon);
        world.run(Duration::from_secs(1));
        assert_eq!(world.names(), names);
    }
    let events = world.events_of(7);
    let expected = [
        registered(Hold::Process),
        AdvertisementEvent::Unconfirmed,
        registered(None),
        AdvertisementEvent::Unconfirmed,
        registered(Hold::Session),
    ];
    assert_eq!(events[2..], expected, "{events:?}");
}

#[test]
fn topics_come_back_after_the_daemon_lost_the_session_or_another_process_removed_them() {
    let mut world = World::new(TCP, SimulatedDaemon::new(true, false));
    for (id, name) in [(1, "/a"), (2, "/b")] {
        world.add(id, info(name, "node"));
    }
    world.run(ms(100));
    world.daemon.sessions.clear();
    world.run(LEASE / 4);
    assert_eq!(world.names(), ["/a", "/b"]);
    world.daemon.remove("/a");
    world.run(REFRESH);
    assert_eq!(world.names(), ["/b", "/a"]);
}

#[test]
fn another_nodes_topic_is_reported_once_and_registered_when_it_is_free() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.daemon.insert(info("/a", "other"), None, false);
    world.add(1, info("/a", "node"));
    world.run(Duration::from_secs(120));
    let taken = Error::AlreadyRegistered {
        topic: "/a".into(),
        node: Some("other".into()),
        message: "Topic /a already registered by other".into(),
    };
    assert_eq!(world.events_of(1), [AdvertisementEvent::Trouble(taken)]);
    let tries = world.commands().len();
    assert!((20..30).contains(&tries), "{tries}");
    world.daemon.remove("/a");
    world.run(REFRESH);
    assert_eq!(world.events_of(1)[1..], [registered(Hold::Process)]);
    assert_eq!(world.daemon.entries[0].info.publisher_node, "node");
}

#[test]
fn the_pauses_after_refusals_grow() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.daemon.refuses = true;
    world.add(1, info("/a", "node"));
    world.run(Duration::from_secs(121));
    let times: Vec<_> = world.requests.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 61, 91]);
    let refused = Error::Refused { message: "not today".into() };
    assert_eq!(world.events_of(1), [AdvertisementEvent::Trouble(refused)]);
}

#[test]
fn ending_an_advertisement_withdraws_its_topic_but_not_that_of_another_node() {
    for is_extended in [true, false] {
        let mut world = World::new(IPC, SimulatedDaemon::new(is_extended, is_extended));
        for (id, name) in [(1, "/a"), (2, "/b"), (3, "/c")] {
            world.add(id, info(name, "node"));
        }
        world.run(ms(100));
        world.commands();
        world.manager.remove(1);
        world.run(ms(10));
        assert_eq!(world.names(), ["/b", "/c"]);
        assert_eq!(world.events_of(1)[1..], [AdvertisementEvent::Ended(Ok(()))]);
        let lookup = if is_extended { &[][..] } else { &[LookupTopic] };
        assert_eq!(world.commands(), [lookup, &[UnregisterTopic]].concat());

        // In the meantime another node has taken over /b, and /c is gone.
        world.daemon.remove("/b");
        world.daemon.insert(info("/b", "other"), None, false);
        world.daemon.remove("/c");
        for id in [2, 3] {
            world.manager.remove(id);
            world.run(ms(10));
            assert_eq!(world.events_of(id)[1..], [AdvertisementEvent::Ended(Ok(()))]);
        }
        assert_eq!(world.names(), ["/b"]);
        assert!(world.manager.is_idle());
        world.commands();
        world.run(Duration::from_secs(60));
        assert_eq!(world.commands(), []);
    }
}

#[test]
fn a_new_process_of_the_node_keeps_its_registration() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    let moved = TopicInfo { address: "ipc:///tmp/new".into(), ..info("/a", "node") };
    world.daemon.insert(moved, None, false);
    world.manager.remove(1);
    world.run(ms(10));
    assert_eq!(world.events_of(1)[1..], [AdvertisementEvent::Ended(Ok(()))]);
    assert_eq!(world.names(), ["/a"], "the topic is at another revision");
}

#[test]
fn ending_without_a_daemon_does_not_wait_and_withdraws_the_topic_later() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    world.down();
    world.manager.remove(1);
    assert_eq!(world.events_of(1)[2..], [AdvertisementEvent::Ended(Err(no_answer(IPC)))]);
    world.run(Duration::from_secs(60));
    assert!(!world.manager.is_idle(), "the daemon may still have the topic");
    world.up();
    world.run(ms(300));
    assert!(world.names().is_empty() && world.manager.is_idle());

    world.down();
    world.add(2, info("/b", "node"));
    world.manager.remove(2);
    assert_eq!(
        world.events_of(2),
        [AdvertisementEvent::Ended(Ok(()))],
        "the manager never sent a REGISTER"
    );
    assert!(world.manager.is_idle());
}

#[test]
fn a_refused_withdrawal_is_reported_and_tried_again() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    world.daemon.refuses = true;
    world.manager.remove(1);
    world.run(Duration::from_secs(120));
    let refused = Error::Refused { message: "not today".into() };
    assert_eq!(world.events_of(1)[1..], [AdvertisementEvent::Ended(Err(refused))]);
    world.daemon.refuses = false;
    world.run(MAX_PAUSE);
    assert!(world.names().is_empty() && world.manager.is_idle());
}

#[test]
fn the_last_advertisement_of_a_topic_counts() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    let moved = TopicInfo { address: "ipc:///tmp/new".into(), ..info("/a", "node") };
    world.add(2, moved.clone());
    world.run(ms(100));
    assert_eq!(world.events_of(1)[1..], [AdvertisementEvent::Replaced]);
    assert_eq!(world.daemon.entries[0].info, moved);
    world.manager.remove(1);
    world.run(ms(100));
    assert_eq!(world.events_of(1)[2..], [AdvertisementEvent::Ended(Ok(()))]);
    assert_eq!(world.names(), ["/a"]);

    // The daemon lets no other node replace the topic, so the manager withdraws it first.
    world.add(3, info("/a", "another"));
    world.run(ms(100));
    assert_eq!(world.events_of(3), [registered(Hold::Process)]);
    assert_eq!(world.daemon.entries[0].info.publisher_node, "another");
}

#[test]
fn the_manager_backs_off_from_a_daemon_that_accepts_connections_but_never_answers() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.daemon.is_unresponsive = true;
    world.add(1, info("/a", "node"));
    world.run(Duration::from_secs(600));
    assert_eq!(world.events_of(1), [AdvertisementEvent::Trouble(no_answer(IPC))]);
    let requests = world.commands().len();
    assert!((100..=121).contains(&requests), "{requests}");
    world.daemon.is_unresponsive = false;
    world.run(TIMEOUT + ms(10));
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn a_failure_of_the_clients_socket_is_reported_once() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.is_up = false;
    world.add(1, info("/a", "node"));
    let error = Error::Transport { reason: SocketError::Descriptors };
    for _ in 0..3 {
        world.manager.failed(&error);
    }
    assert_eq!(world.events_of(1), [AdvertisementEvent::Trouble(error)]);
    world.up();
    world.run(ms(10));
    assert_eq!(world.events_of(1)[1..], [registered(Hold::Process)]);
}

/// The error of an advertisement whose topic this node's other process has.
fn superseded(topic: &str, node: &str) -> AdvertisementEvent {
    let error = Error::Superseded { topic: topic.into(), node: node.into() };
    AdvertisementEvent::Trouble(error)
}

#[test]
fn an_earlier_process_yields_to_a_later_one_until_that_is_gone() {
    for is_extended in [true, false] {
        let mut world = World::new(IPC, SimulatedDaemon::new(is_extended, is_extended));
        let hold = is_extended.then_some(Hold::Process);
        world.add(1, info("/a", "node"));
        world.run(ms(100));
        // A legacy daemon shows only another address. Ours shows another registration of the same.
        let address = if is_extended { "ipc:///tmp/a" } else { "ipc:///tmp/new" };
        let other = TopicInfo { address: address.into(), ..info("/a", "node") };
        world.daemon.insert(other.clone(), None, false);
        let revision = world.daemon.revision;
        world.run(Duration::from_secs(60));
        assert_eq!(world.events_of(1), [registered(hold.clone()), superseded("/a", "node")]);
        assert_eq!(world.daemon.entries[0].revision, revision, "registered throughout");

        // A daemon that has lost its topics gets this one from the later process.
        world.down();
        world.daemon.remove("/a");
        world.up();
        world.run(ms(500));
        world.daemon.insert(other, None, false);
        world.run(Duration::from_secs(60));
        assert_eq!(world.events_of(1).len(), 2, "told once: {:?}", world.events);
        world.commands();
        world.daemon.remove("/a");
        world.run(REFRESH);
        assert_eq!(world.events_of(1)[2..], [registered(hold)]);
        world.manager.remove(1);
        world.run(ms(100));
        assert!(world.names().is_empty() && world.manager.is_idle());
    }
}

#[test]
fn an_advertisement_that_yields_leaves_the_topic_of_the_other_process_when_it_ends() {
    for is_extended in [true, false] {
        let mut world = World::new(IPC, SimulatedDaemon::new(is_extended, is_extended));
        world.add(1, info("/a", "node"));
        world.run(ms(100));
        let moved = TopicInfo { address: "ipc:///tmp/new".into(), ..info("/a", "node") };
        world.daemon.insert(moved, None, false);
        world.run(REFRESH);
        world.commands();
        world.manager.remove(1);
        world.run(ms(100));
        assert_eq!(world.commands(), [], "there is nothing to withdraw");
        assert_eq!(world.events_of(1).last(), Some(&AdvertisementEvent::Ended(Ok(()))));
        assert_eq!(world.names(), ["/a"]);
    }
}

#[test]
fn after_a_restart_with_its_topics_the_daemon_gets_no_register() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    world.down();
    world.up();
    world.commands();
    world.run(ms(100));
    assert_eq!(world.commands(), [LookupTopic]);
    // Another history gives the same registration another revision; the process tells.
    world.down();
    world.daemon.entries[0].revision = 77;
    world.up();
    world.run(ms(100));
    assert_eq!(world.commands(), [LookupTopic]);
    assert_eq!(world.events_of(1).last(), Some(&registered(Hold::Process)));
}

#[test]
fn after_a_lost_connection_a_session_is_renewed_at_once() {
    let mut world = World::new(TCP, SimulatedDaemon::new(true, false));
    world.add(1, info("/a", "node"));
    world.run(ms(100));
    world.down();
    world.run(LEASE * 9 / 10);
    world.commands();
    world.up();
    world.run(ms(100));
    assert_eq!(world.commands(), [LookupTopic, Renew]);
    world.run(LEASE);
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn many_topics_are_registered_at_once_and_refreshed_at_a_limited_rate() {
    let mut world = World::new(IPC, SimulatedDaemon::new(true, true));
    for id in 0..1000 {
        world.add(id, info(&format!("/{id}"), "node"));
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.names().len(), 1000);
    world.commands();
    world.run(Duration::from_secs(100));
    let requests = world.commands().len();
    assert!((4000..=5000).contains(&requests), "{requests}");
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Add {
        name: usize,
        node: usize,
    },
    Drop {
        which: usize,
    },
    Pass {
        millis: u64,
    },
    Down,
    Up,
    Replace {
        is_extended: bool,
        sees_process: bool,
    },
    ForgetSessions,
    Refuses(bool),
    Unresponsive(bool),
    /// Another process registers a topic that is free.
    Take {
        name: usize,
    },
    /// Another process of the node registers a topic of the manager.
    Supersede {
        name: usize,
    },
    /// Another process removes a topic of any owner.
    Remove {
        name: usize,
    },
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (0..4_usize, 0..2_usize).prop_map(|(name, node)| Operation::Add { name, node }),
        4 => (0..8_usize).prop_map(|which| Operation::Drop { which }),
        8 => prop_oneof![0..5_u64, 0..3_000_u64, 0..40_000_u64]
            .prop_map(|millis| Operation::Pass { millis }),
        2 => Just(Operation::Down),
        3 => Just(Operation::Up),
        2 => any::<(bool, bool)>()
            .prop_map(|(is_extended, sees_process)| {
                Operation::Replace { is_extended, sees_process }
            }),
        1 => Just(Operation::ForgetSessions),
        2 => any::<bool>().prop_map(Operation::Refuses),
        2 => any::<bool>().prop_map(Operation::Unresponsive),
        2 => (0..4_usize).prop_map(|name| Operation::Take { name }),
        2 => (0..4_usize).prop_map(|name| Operation::Supersede { name }),
        2 => (0..4_usize).prop_map(|name| Operation::Remove { name }),
    ]
}

const NAMES: [&str; 4] = ["/a", "/b", "/c", "/d"];
const NODES: [&str; 2] = ["n0", "n1"];

/// The advertisements as their users see them.
#[derive(Default)]
struct Users {
    live: Vec<(AdvertisementId, TopicInfo)>,
    replaced: Vec<AdvertisementId>,
    dropped: Vec<AdvertisementId>,
    last_id: AdvertisementId,
}

impl Users {
    fn take(&mut self, operation: Operation, world: &mut World) {
        match operation {
            Operation::Add { name, node } => {
                self.last_id += 1;
                let info = info(NAMES[name], NODES[node]);
                let is_same = |(_, other): &(AdvertisementId, TopicInfo)| other.name == info.name;
                if let Some(index) = self.live.iter().position(is_same) {
                    self.replaced.push(self.live.remove(index).0);
                }
                self.live.push((self.last_id, info.clone()));
                world.add(self.last_id, info);
            }
            Operation::Drop { which } => {
                let all = self.live.iter().map(|(id, _)| *id).chain(self.replaced.iter().copied());
                let all: Vec<_> = all.collect();
                if let Some(id) = all.get(which).copied() {
                    self.live.retain(|(live, _)| *live != id);
                    self.replaced.retain(|replaced| *replaced != id);
                    self.dropped.push(id);
                    world.manager.remove(id);
                }
            }
            Operation::Pass { millis } => world.run(ms(millis)),
            Operation::Down => world.down(),
            Operation::Up => world.up(),
            Operation::Replace { is_extended, sees_process } => {
                let daemon = SimulatedDaemon::new(is_extended, sees_process);
                world.replace(daemon);
            }
            Operation::ForgetSessions => world.daemon.sessions.clear(),
            Operation::Refuses(refuses) => world.daemon.refuses = refuses,
            Operation::Unresponsive(is_unresponsive) => {
                world.daemon.is_unresponsive = is_unresponsive;
            }
            // At a reference daemon the manager cannot notice a change between its LOOKUP and its
            // UNREGISTER.
            Operation::Take { .. } | Operation::Supersede { .. } | Operation::Remove { .. }
                if world.in_transit.is_some() => {}
            Operation::Supersede { name } => {
                if let Some(entry) = world.daemon.find(NAMES[name]) {
                    let address = "ipc:///tmp/other".into();
                    let info = TopicInfo { address, ..entry.info.clone() };
                    world.daemon.insert(info, None, false);
                }
            }
            Operation::Take { name } => {
                if world.daemon.find(NAMES[name]).is_none() {
                    world.daemon.insert(info(NAMES[name], "other"), None, false);
                }
            }
            Operation::Remove { name } => world.daemon.remove(NAMES[name]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn after_any_operations_the_daemon_has_exactly_the_advertised_topics(
        address in prop_oneof![Just(IPC), Just(TCP)],
        operations in vec(operations(), 0..60),
        (is_extended, sees_process) in any::<(bool, bool)>(),
    ) {
        let mut world = World::new(address, SimulatedDaemon::new(is_extended, sees_process));
        let mut users = Users::default();
        for operation in operations {
            users.take(operation, &mut world);
        }

        // From now on nothing fails.
        world.daemon.refuses = false;
        world.daemon.is_unresponsive = false;
        world.daemon.entries.retain(|entry| entry.is_ours);
        world.up();
        world.run(MAX_PAUSE + TIMEOUT + REFRESH + ms(100));
        let check = |world: &World| {
            let mut has: Vec<_> = world.daemon.entries.iter().map(|entry| &entry.info).collect();
            let mut wanted: Vec<_> = users.live.iter().map(|(_, info)| info).collect();
            has.sort_by_key(|info| info.name.as_str());
            wanted.sort_by_key(|info| info.name.as_str());
            prop_assert_eq!(has, wanted);
            Ok(())
        };
        check(&world)?;

        // The state stays the same, with few requests.
        world.commands();
        let (revision, events) = (world.daemon.revision, world.events.len());
        for _ in 0..60 {
            world.run(Duration::from_secs(1));
            check(&world)?;
        }
        prop_assert_eq!(world.daemon.revision, revision);
        prop_assert_eq!(world.events.len(), events);
        let most = users.live.len() * 62 + 25;
        prop_assert!(world.commands().len() <= most);

        let extended = world.daemon.is_extended;
        let hold = match (extended, address == IPC && world.daemon.sees_process) {
            (false, _) => None,
            (true, true) => Some(Hold::Process),
            (true, false) => Some(Hold::Session),
        };
        for (id, _) in &users.live {
            let expected = registered(hold.clone());
            prop_assert_eq!(world.events_of(*id).last().cloned(), Some(expected));
        }
        for id in &users.replaced {
            let expected = AdvertisementEvent::Replaced;
            prop_assert_eq!(world.events_of(*id).last().cloned(), Some(expected));
        }
        for id in &users.dropped {
            let events = world.events_of(*id);
            let is_end = |event: &AdvertisementEvent| matches!(event, AdvertisementEvent::Ended(_));
            let ends = events.iter().filter(|event| is_end(event)).count();
            prop_assert!(ends == 1 && events.last().is_some_and(is_end), "{:?}", events);
        }
    }
}
