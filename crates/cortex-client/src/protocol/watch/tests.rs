//! Watches under random changes, restarts, lost answers and replaced daemons, against a naive
//! model.

use std::collections::BTreeMap;

use cortex_proto::{DiscoveryCommand, DiscoveryResponse, DiscoveryStatus, ResponseExt, TopicName};
use proptest::prelude::*;

use super::*;
use crate::error::UnreadableReply;
use crate::protocol::reply::RawReply;
use crate::protocol::request::OnLoss;

const INTERVAL: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(2);

fn info(name: &str, version: u8) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: format!("ipc:///{version}"),
        message_type: String::new(),
        fingerprint: 0,
        publisher_node: String::new(),
    }
}

fn read(response: &DiscoveryResponse) -> Reply {
    let now = Instant::now();
    Reply::read(&RawReply::for_test(response, now, now)).unwrap()
}

fn ok(topics: Vec<TopicInfo>, ext: Option<ResponseExt>) -> Reply {
    read(&DiscoveryResponse { topics, ext, ..DiscoveryResponse::new(DiscoveryStatus::Ok, "") })
}

fn refusal(ext: Option<ResponseExt>) -> Reply {
    read(&DiscoveryResponse { ext, ..DiscoveryResponse::new(DiscoveryStatus::Error, "why") })
}

/// A daemon with its list of topics and, unless it is the reference, its history.
struct ModelDaemon {
    topics: Vec<TopicInfo>,
    is_ours: bool,
    epoch: u64,
    revision: u64,
    /// The last `kept` events.
    events: Vec<EventExt>,
    kept: usize,
    limit: usize,
    /// The list of topics at each revision of each epoch.
    lists: BTreeMap<(u64, u64), Vec<TopicInfo>>,
}

impl ModelDaemon {
    fn change(&mut self, kind: EventKind, info: TopicInfo, reason: Option<RemovalReason>) {
        self.revision += 1;
        let topic_name = info.name.as_str().to_owned();
        let revision = self.revision;
        self.events.push(EventExt { kind, revision, topic_name, topic_info: info, reason });
        let excess = self.events.len().saturating_sub(self.kept);
        self.events.drain(..excess);
        self.lists.insert((self.epoch, self.revision), self.topics.clone());
    }

    fn register(&mut self, info: TopicInfo) {
        match self.topics.iter().position(|topic| topic.name == info.name) {
            Some(at) if self.topics[at] == info => {}
            Some(at) => {
                self.topics[at] = info.clone();
                self.change(EventKind::Updated, info, None);
            }
            None => {
                self.topics.push(info.clone());
                self.change(EventKind::Registered, info, None);
            }
        }
    }

    fn remove(&mut self, name: &str, kind: EventKind, reason: Option<RemovalReason>) {
        if let Some(at) = self.topics.iter().position(|topic| topic.name.as_str() == name) {
            let info = self.topics.remove(at);
            self.change(kind, info, reason);
        }
    }

    fn forget(&mut self) {
        self.topics.clear();
        self.events.clear();
        self.epoch += 1;
        self.revision = 0;
        self.lists.insert((self.epoch, 0), Vec::new());
    }

    /// The answer, and whether our daemon would park the request because no event is new.
    fn answer(&self, body: &[u8]) -> (Reply, bool) {
        let request = DiscoveryRequest::from_bytes(body).unwrap();
        let is_list = request.command == DiscoveryCommand::ListTopics.into();
        if !self.is_ours {
            let reply = if is_list { ok(self.topics.clone(), None) } else { refusal(None) };
            return (reply, is_list);
        }
        if is_list {
            return (ok(self.topics.clone(), Some(ResponseExt::default())), false);
        }
        let asked = request.ext.unwrap();
        let filter = asked.filter.map(|filter| TopicFilter::new(filter).unwrap());
        let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.matches(name));
        let mut ext = ResponseExt {
            epoch: Some(self.epoch),
            revision: Some(self.revision),
            ..ResponseExt::default()
        };
        let oldest = self.revision - u64::try_from(self.events.len()).unwrap();
        let since = asked.since.filter(|since| {
            since.epoch == self.epoch && (oldest..=self.revision).contains(&since.revision)
        });
        let Some(since) = since else {
            ext.snapshot = Some(true);
            let topics = self.topics.iter().filter(|topic| wanted(topic.name.as_str()));
            return (ok(topics.cloned().collect(), Some(ext)), false);
        };
        let new = self.events.iter().filter(|event| event.revision > since.revision);
        let mut events: Vec<_> = new.filter(|event| wanted(&event.topic_name)).cloned().collect();
        if events.len() > self.limit {
            events.truncate(self.limit);
            ext.revision = events.last().map(|event| event.revision);
        }
        let is_empty = events.is_empty();
        ext.events = Some(events);
        (ok(Vec::new(), Some(ext)), is_empty)
    }
}

/// A user of a watch, which keeps the list of topics up to date with its events.
#[derive(Default)]
struct Reader {
    topics: Option<Vec<TopicInfo>>,
    revision: Option<u64>,
}

impl Reader {
    fn apply(&mut self, event: WatchEvent) {
        let change = match event {
            WatchEvent::Snapshot { topics, revision, is_resync } => {
                assert_eq!(
                    is_resync,
                    self.topics.is_some(),
                    "each snapshot but the first is a resync"
                );
                self.topics = Some(topics);
                self.revision = revision;
                return;
            }
            WatchEvent::Changed(change) => change,
        };
        if let Some(revision) = change.revision {
            assert!(self.revision.is_some_and(|last| last < revision), "no event comes twice");
        }
        self.revision = change.revision;
        let topics = self.topics.as_mut().expect("a snapshot comes first");
        let at = topics.iter().position(|topic| topic.name == change.info.name);
        match (change.kind, at) {
            (EventKind::Registered, None) => topics.push(change.info),
            (EventKind::Updated, Some(at)) => topics[at] = change.info,
            (EventKind::Unregistered | EventKind::Evicted, Some(at)) => {
                assert_eq!(topics.remove(at), change.info);
            }
            (kind, at) => panic!("{kind} of a topic at {at:?}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// The answer is lost, and the query times out.
    Silence,
    /// The connection is lost before the answer.
    Lost,
    /// The daemon answers at once without events.
    Early,
    Garbage,
    Refusal,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Register(u8, u8),
    Unregister(u8),
    Evict(u8),
    /// A removal with an event kind of a later level.
    Other(u8),
    /// The daemon loses its state.
    Forget,
    /// A daemon of the other kind takes over, with this many topics.
    Replace(u8),
    Ask(Fault),
    /// Ask until no event is left.
    CatchUp,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..6_u8, 0..3_u8).prop_map(|(name, version)| Step::Register(name, version)),
        4 => (0..6_u8).prop_map(Step::Unregister),
        2 => (0..6_u8).prop_map(Step::Evict),
        1 => (0..6_u8).prop_map(Step::Other),
        1 => Just(Step::Forget),
        1 => (0..6_u8).prop_map(Step::Replace),
        4 => Just(Step::Ask(Fault::None)),
        1 => Just(Step::Ask(Fault::Silence)),
        1 => Just(Step::Ask(Fault::Lost)),
        1 => Just(Step::Ask(Fault::Early)),
        1 => Just(Step::Ask(Fault::Garbage)),
        1 => Just(Step::Ask(Fault::Refusal)),
        4 => Just(Step::CatchUp),
    ];
    prop::collection::vec(step, 0..60)
}

/// The next query of a watch, with the time of its start.
fn next_query(state: &mut WatchState, now: &mut Instant) -> Query {
    loop {
        match state.next_action(*now) {
            Action::Send(query) => return query,
            Action::List { due, .. } => {
                *now = due.max(*now);
                let request = DiscoveryRequest::list().with_ext(RequestExt::default());
                return Query::immediate(&request, ANSWER);
            }
            Action::Wait(Some(until)) => *now = until,
            action @ (Action::Wait(None) | Action::Finish) => panic!("{action:?}"),
        }
    }
}

struct Simulation {
    daemon: ModelDaemon,
    state: WatchState,
    reader: Reader,
    now: Instant,
}

impl Simulation {
    fn new(filter: Option<&str>, is_ours: bool, kept: usize, limit: usize) -> Self {
        let filter = filter.map(|filter| TopicFilter::new(filter).unwrap());
        Self {
            daemon: ModelDaemon {
                topics: Vec::new(),
                is_ours,
                epoch: 0,
                revision: 0,
                events: Vec::new(),
                kept,
                limit,
                lists: BTreeMap::from([((0, 0), Vec::new())]),
            },
            state: WatchState::new(filter, INTERVAL, ANSWER),
            reader: Reader::default(),
            now: Instant::now(),
        }
    }

    fn watched(&self, topics: &[TopicInfo]) -> Vec<TopicInfo> {
        let wanted = |name: &str| self.state.filter.as_ref().is_none_or(|f| f.matches(name));
        topics.iter().filter(|topic| wanted(topic.name.as_str())).cloned().collect()
    }

    /// Sends one query. True when no event is left.
    fn ask(&mut self, fault: Fault) -> bool {
        let query = next_query(&mut self.state, &mut self.now);
        let asked_at = self.now;
        let (reply, is_idle) = self.daemon.answer(&query.body);
        let mut is_done = false;
        match fault {
            Fault::None => {
                if is_idle {
                    self.now += query.policy.timeout.saturating_sub(ANSWER);
                }
                is_done = is_idle;
                self.state.answered(reply, asked_at, self.now).unwrap();
            }
            Fault::Early if is_idle => self.state.answered(reply, asked_at, self.now).unwrap(),
            Fault::Early => {}
            Fault::Silence => {
                self.now += query.policy.timeout;
                self.state.failed(self.now);
            }
            Fault::Lost if query.on_loss == OnLoss::ReportParked => self.state.lost(),
            Fault::Lost => self.state.failed(self.now),
            Fault::Garbage => {
                let ext = self.daemon.is_ours.then(ResponseExt::default);
                let topics = vec![info("/garbage", 0); 2];
                // An answer without a revision; as a list, the reference might give it.
                if self.daemon.is_ours && !matches!(self.state.mode, Mode::Polling(_)) {
                    let error = self.state.answered(ok(topics, ext), asked_at, self.now);
                    assert_eq!(error, Err(UnreadableReply::NoRevision.into()));
                }
            }
            Fault::Refusal => {
                let is_polling = matches!(self.state.mode, Mode::Polling(_));
                if self.daemon.is_ours != is_polling {
                    let ext = self.daemon.is_ours.then(ResponseExt::default);
                    let error = self.state.answered(refusal(ext), asked_at, self.now);
                    assert_eq!(error, Err(Error::Refused { message: "why".into() }));
                }
            }
        }
        while let Some(event) = self.state.take_event() {
            self.reader.apply(event);
            if let Some(revision) = self.reader.revision {
                let list = &self.daemon.lists[&(self.daemon.epoch, revision)];
                assert_eq!(self.reader.topics.as_deref(), Some(&*self.watched(list)));
            }
        }
        is_done
    }

    fn catch_up(&mut self) {
        let queries = (0..1000).take_while(|_| !self.ask(Fault::None)).count();
        assert!(queries < 1000, "the watch never catches up");
        // A watch of the reference has seen at least one complete list by now.
        assert_eq!(self.reader.topics, Some(self.watched(&self.daemon.topics)));
    }

    fn apply(&mut self, step: Step) {
        let name = |number: u8| format!("/{}", char::from(b'a' + number));
        let daemon = &mut self.daemon;
        match step {
            Step::Register(number, version) => daemon.register(info(&name(number), version)),
            Step::Unregister(number) => daemon.remove(
                &name(number),
                EventKind::Unregistered,
                Some(RemovalReason::Unregistered),
            ),
            Step::Evict(number) => {
                daemon.remove(&name(number), EventKind::Evicted, Some(RemovalReason::OwnerExited));
            }
            Step::Other(number) => {
                daemon.remove(&name(number), EventKind::Other("moved".into()), None);
            }
            Step::Forget => daemon.forget(),
            Step::Replace(count) => {
                daemon.forget();
                daemon.is_ours = !daemon.is_ours;
                (0..count).rev().for_each(|number| daemon.register(info(&name(number), 0)));
            }
            Step::Ask(fault) => drop(self.ask(fault)),
            Step::CatchUp => self.catch_up(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_events_always_give_the_daemons_list(
        steps in steps(),
        is_filtered in any::<bool>(),
        is_ours in any::<bool>(),
        kept in 0..8_usize,
        limit in 1..5_usize,
    ) {
        let mut simulation = Simulation::new(is_filtered.then_some("/[a-c]"), is_ours, kept, limit);
        for step in steps {
            simulation.apply(step);
        }
        simulation.catch_up();
    }

    #[test]
    fn the_difference_leads_from_any_list_to_any_other(
        old in prop::collection::hash_map(0..12_u8, 0..3_u8, 0..12),
        new in prop::collection::hash_map(0..12_u8, 0..3_u8, 0..12),
    ) {
        // Two maps iterate over their keys in different orders.
        let list = |map: &HashMap<u8, u8>| -> Vec<_> {
            map.iter().map(|(name, version)| info(&format!("/{name}"), *version)).collect()
        };
        let (old, new) = (list(&old), list(&new));
        let mut reader = Reader { topics: Some(old.clone()), revision: None };
        for change in difference(&old, new.clone()) {
            reader.apply(WatchEvent::Changed(change));
        }
        prop_assert_eq!(reader.topics, Some(new));
    }
}

#[test]
fn the_difference_has_only_the_necessary_changes() {
    let list = |names: &[&str]| names.iter().map(|name| info(name, 0)).collect::<Vec<_>>();
    for (old, new, expected) in [
        (&["/a", "/b"][..], &["/a", "/b"][..], &[][..]),
        (&[], &["/b", "/a"], &["registered /b", "registered /a"]),
        (&["/a", "/b"], &[], &["unregistered /a", "unregistered /b"]),
        (&["/a", "/b", "/c"], &["/a", "/c", "/d"], &["unregistered /b", "registered /d"]),
        (&["/a", "/b"], &["/b", "/a"], &["unregistered /a", "registered /a"]),
    ] {
        let changes = difference(&list(old), list(new));
        let changes: Vec<_> = changes.map(|c| format!("{} {}", c.kind, c.info.name)).collect();
        assert_eq!(changes, expected, "{old:?} to {new:?}");
    }
    let changed: Vec<_> = difference(&list(&["/a", "/b"]), vec![info("/a", 1), info("/b", 0)])
        .map(|change| (change.kind, change.info))
        .collect();
    assert_eq!(changed, [(EventKind::Updated, info("/a", 1))]);
}

/// Counts the queries of a minute. `answer` answers each of them at once.
fn queries_in_a_minute(mut answer: impl FnMut(&mut WatchState, &Query, Instant)) -> usize {
    let start = Instant::now();
    let mut now = start;
    let mut state = WatchState::new(None, INTERVAL, Duration::from_millis(1));
    let mut queries = 0;
    while now - start < Duration::from_secs(60) {
        let query = next_query(&mut state, &mut now);
        if now - start >= Duration::from_secs(60) {
            break;
        }
        queries += 1;
        answer(&mut state, &query, now);
        while state.take_event().is_some() {}
        assert!(queries < 10_000, "the watch spins");
    }
    queries
}

#[test]
fn no_daemon_makes_a_watch_spin() {
    let position = |snapshot| ResponseExt {
        epoch: Some(1),
        revision: Some(1),
        snapshot,
        ..ResponseExt::default()
    };
    let snapshot = || ok(Vec::new(), Some(position(Some(true))));
    let is_watch = |query: &Query| {
        let request = DiscoveryRequest::from_bytes(&query.body).unwrap();
        request.command == DiscoveryCommand::WatchTopics.into()
    };

    let always_all = queries_in_a_minute(|state, _, now| {
        state.answered(snapshot(), now, now).unwrap();
    });
    let mut is_first = true;
    let never_parks = queries_in_a_minute(|state, _, now| {
        let first = std::mem::take(&mut is_first);
        let reply = if first { snapshot() } else { ok(Vec::new(), Some(position(None))) };
        state.answered(reply, now, now).unwrap();
    });
    let silent = queries_in_a_minute(|state, _, now| state.failed(now));
    let garbage = queries_in_a_minute(|state, _, now| {
        assert!(state.answered(ok(Vec::new(), Some(ResponseExt::default())), now, now).is_err());
    });
    let broken = queries_in_a_minute(|state, _, now| state.failed(now));
    let two_kinds = queries_in_a_minute(|state, query, now| {
        let ext = (!is_watch(query)).then(ResponseExt::default);
        state.answered(ok(Vec::new(), ext), now, now).unwrap();
    });
    for (what, queries) in [
        ("a daemon that always gives a snapshot", always_all),
        ("a daemon that parks no request", never_parks),
        ("a daemon that never answers", silent),
        ("a daemon with unreadable answers", garbage),
        ("a socket that fails", broken),
        ("two kinds of daemon alternately", two_kinds),
    ] {
        assert!(queries < 160, "{what}: {queries} queries");
    }

    let polled = queries_in_a_minute(|state, query, now| {
        let reply = if is_watch(query) { refusal(None) } else { ok(Vec::new(), None) };
        state.answered(reply, now, now).unwrap();
    });
    assert_eq!(polled, 1 + 120, "at each interval");
}

#[test]
fn a_watch_pauses_as_long_as_a_list_takes() {
    let mut simulation = Simulation::new(None, false, 0, 1);
    simulation.ask(Fault::None);
    let next_due = |simulation: &mut Simulation| match simulation.state.next_action(simulation.now)
    {
        Action::List { due, until: None } => due,
        action @ (Action::List { .. } | Action::Send(_) | Action::Wait(_) | Action::Finish) => {
            panic!("{action:?}")
        }
    };
    assert_eq!(next_due(&mut simulation), simulation.now, "the first list, at once");
    let asked_at = simulation.now;
    let took = Duration::from_secs(3);
    let answered_at = asked_at + took;
    // The reader takes the answer late, which must not delay the next one.
    simulation.now += 3 * took;
    simulation.state.answered(ok(Vec::new(), None), asked_at, answered_at).unwrap();
    assert_eq!(next_due(&mut simulation), answered_at + took);
    let asked_at = answered_at + took;
    let quickly = asked_at + Duration::from_millis(1);
    simulation.state.answered(ok(Vec::new(), None), asked_at, quickly).unwrap();
    assert_eq!(next_due(&mut simulation), asked_at + INTERVAL);
}

#[test]
fn a_topic_that_a_list_has_twice_counts_once() {
    let mut simulation = Simulation::new(None, false, 0, 1);
    simulation.daemon.topics = vec![info("/a", 0), info("/b", 0), info("/a", 1)];
    simulation.ask(Fault::None);
    simulation.ask(Fault::None);
    assert_eq!(simulation.reader.topics, Some(vec![info("/a", 0), info("/b", 0)]));
}

#[test]
fn after_a_lost_connection_the_next_query_is_answered_at_once() {
    let mut simulation = Simulation::new(None, true, 8, 4);
    simulation.catch_up();
    let Action::Send(query) = simulation.state.next_action(simulation.now) else {
        panic!("no reason to pause")
    };
    assert_eq!(query.on_loss, OnLoss::ReportParked);
    assert_eq!(query.policy.timeout, LONG_POLL + ANSWER);
    simulation.state.lost();
    let Action::Send(query) = simulation.state.next_action(simulation.now) else {
        panic!("at once")
    };
    let request = DiscoveryRequest::from_bytes(&query.body).unwrap();
    assert_eq!(request.ext.unwrap().wait_ms, Some(0));
    assert_eq!(query.on_loss, OnLoss::Resend);
    simulation.daemon.register(info("/a", 0));
    simulation.catch_up();
}

#[test]
fn large_lists_are_compared_quickly() {
    let list = |from: u32| -> Vec<_> {
        (from..from + 100_000).map(|number| info(&format!("/{number}"), 0)).collect()
    };
    assert_eq!(difference(&list(0), list(10)).count(), 20);
    assert_eq!(difference(&list(0), list(200_000)).count(), 200_000);
}

#[test]
fn events_that_do_not_follow_the_last_revision_give_a_new_snapshot() {
    let position = |epoch, revision| ResponseExt {
        epoch: Some(epoch),
        revision: Some(revision),
        ..ResponseExt::default()
    };
    let events = |epoch, revision, revisions: &[u64], kind: &str| {
        let event = |revision: &u64| EventExt {
            kind: EventKind::from(kind),
            revision: *revision,
            topic_name: format!("/{revision}"),
            topic_info: info(&format!("/{revision}"), 0),
            reason: None,
        };
        let events = Some(revisions.iter().map(event).collect());
        ok(Vec::new(), Some(ResponseExt { events, ..position(epoch, revision) }))
    };
    let asks_since = |state: &mut WatchState, now: &mut Instant| {
        let request = DiscoveryRequest::from_bytes(&next_query(state, now).body).unwrap();
        request.ext.unwrap().since.map(|since| (since.epoch, since.revision))
    };
    for (answer, expected, since) in [
        (events(1, 7, &[4, 5, 6, 7], "registered"), &["/6", "/7"][..], Some((1, 7))),
        (events(1, 7, &[6, 6], "registered"), &["/6"], Some((1, 7))),
        (events(1, 5, &[6, 8], "registered"), &["/6", "/8"], Some((1, 8))),
        (events(2, 7, &[6], "registered"), &[], None),
        (events(1, 4, &[6], "registered"), &[], None),
        (events(1, 7, &[6, 7], "moved"), &[], None),
    ] {
        let mut now = Instant::now();
        let mut state = WatchState::new(None, INTERVAL, ANSWER);
        assert_eq!(asks_since(&mut state, &mut now), None);
        let all = ResponseExt { snapshot: Some(true), ..position(1, 5) };
        state.answered(ok(Vec::new(), Some(all)), now, now).unwrap();
        assert!(matches!(state.take_event(), Some(WatchEvent::Snapshot { .. })));
        assert_eq!(asks_since(&mut state, &mut now), Some((1, 5)));
        state.answered(answer, now, now).unwrap();
        let events_seen = std::iter::from_fn(|| state.take_event()).map(|event| match event {
            WatchEvent::Changed(change) => change.info.name.to_string(),
            WatchEvent::Snapshot { .. } => "a snapshot".to_owned(),
        });
        assert_eq!(events_seen.collect::<Vec<_>>(), expected);
        assert_eq!(asks_since(&mut state, &mut now), since, "{expected:?}");
    }
}
