//! WAIT and WATCH: which replies clients get, and when. A watch never has a gap or a duplicate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::watcher::Watcher;
use common::{CONNECTIONS, REMOTE, Settings, World, info, local, reply_to, settings};
use cortex_daemon::peer::ConnectionId;
use cortex_daemon::registry::{Input, PeerRequest, ProbeResult, Snapshot};
use cortex_proto::{
    DiscoveryRequest, DiscoveryStatus, EventKind, RemovalReason, RequestExt, ResponseExt, Since,
    TopicInfo,
};
use proptest::collection::vec;
use proptest::prelude::*;

const MINUTE_MS: u64 = 60_000;

fn wait(name: &str, wait_ms: u64) -> DiscoveryRequest {
    DiscoveryRequest::wait(name, wait_ms)
}

fn watch(filter: Option<&str>, since: Option<Since>, wait_ms: u64) -> DiscoveryRequest {
    let filter = filter.map(str::to_owned);
    DiscoveryRequest::watch(RequestExt {
        filter,
        since,
        wait_ms: Some(wait_ms),
        ..RequestExt::default()
    })
}

#[expect(clippy::unnecessary_wraps, reason = "a since may be absent")]
fn at(revision: u64) -> Option<Since> {
    Some(Since { epoch: 7, revision })
}

fn register(world: &mut World, name: &str, node: &str) {
    let reply = world.call(local(1, 10), DiscoveryRequest::register(info(name, node)));
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
}

fn unregister(world: &mut World, name: &str) {
    let reply = world.call(local(1, 10), DiscoveryRequest::unregister(name));
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
}

/// The extension of the reply to a WATCH, which must have come.
fn watch_reply(world: &mut World, number: usize) -> ResponseExt {
    let reply = world.replies.remove(&number).unwrap();
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
    reply.ext.unwrap()
}

/// Each event's kind, topic and revision.
fn happened(ext: &ResponseExt) -> Vec<(String, String, u64)> {
    let events = ext.events.as_ref().unwrap();
    events
        .iter()
        .map(|event| (event.kind.to_string(), event.topic_name.clone(), event.revision))
        .collect()
}

fn event(kind: &str, name: &str, revision: u64) -> (String, String, u64) {
    (kind.to_owned(), name.to_owned(), revision)
}

#[test]
fn a_wait_is_answered_when_its_topic_is_registered() {
    let mut world = World::new();
    let number = world.send(REMOTE, wait("/x", MINUTE_MS));
    register(&mut world, "/y", "node");
    assert!(world.replies.is_empty());
    register(&mut world, "/x", "node");
    let reply = world.replies.remove(&number).unwrap();
    assert_eq!(reply.topic_info, Some(info("/x", "node")));
    let looked_up = DiscoveryRequest::lookup("/x").with_ext(RequestExt::default());
    assert_eq!(reply, world.call(REMOTE, looked_up), "as a LOOKUP with an extension");
    assert_eq!(
        world.call(REMOTE, wait("/x", MINUTE_MS)),
        reply,
        "the topic is registered: the reply comes at once"
    );
}

#[test]
fn an_expired_wait_is_answered_as_a_lookup() {
    let mut world = World::new();
    let number = world.send(REMOTE, wait("/x", 5000));
    let end = world.now.instant + Duration::from_secs(5);
    assert_eq!(world.registry.next_answer(), Some(end));
    world.advance(4);
    assert!(world.replies.is_empty());
    world.advance(1);
    let not_found = DiscoveryRequest::lookup("/x").with_ext(RequestExt::default());
    let not_found = world.call(REMOTE, not_found);
    assert_eq!(world.replies.remove(&number).unwrap(), not_found);
    assert_eq!(not_found.status, DiscoveryStatus::NotFound);
    assert_eq!(world.call(REMOTE, wait("/x", 0)), not_found, "no time to wait");
}

#[test]
fn a_wait_lasts_at_most_a_minute() {
    let mut world = World::new();
    let unbounded = DiscoveryRequest { ext: None, ..wait("/x", 0) };
    let numbers = [world.send(REMOTE, wait("/x", u64::MAX)), world.send(REMOTE, unbounded)];
    world.advance(59);
    assert!(world.replies.is_empty());
    world.advance(1);
    for number in numbers {
        let reply = world.replies.remove(&number).unwrap();
        assert_eq!((reply.status, reply.ext.is_some()), (DiscoveryStatus::NotFound, true));
    }
}

#[test]
fn an_invalid_wait_or_watch_gets_an_error_with_the_reason() {
    let mut world = World::new();
    for (request, why) in [
        (DiscoveryRequest { topic_name: None, ..wait("", 1000) }, "Missing topic_name"),
        (wait("", 1000), "Missing topic_name"),
        (wait(&"x".repeat(1025), 1000), "1025 bytes"),
        (watch(Some(""), None, 1000), "ext.filter: a pattern cannot be empty"),
        (watch(Some("/a["), None, 1000), "ext.filter: "),
        (watch(Some(&"x".repeat(1025)), None, 1000), "1025 bytes"),
        (watch(Some(&"*".repeat(257)), None, 1000), "257 bytes"),
    ] {
        let reply = world.call(REMOTE, request);
        assert_eq!(reply.status, DiscoveryStatus::Error);
        assert!(reply.message.contains(why), "{}", reply.message);
        assert!(reply.ext.is_some());
    }
}

#[test]
fn a_filter_that_costs_too_much_is_refused() {
    let mut world = World::new();
    for batch in 0..20 {
        let long = |number: usize| {
            let name = format!("/{}/{batch}/{number}", "a".repeat(1000));
            TopicInfo { address: "ipc:///tmp/x".into(), ..info(&name, "node") }
        };
        let requests = (0..100).map(|number| (REMOTE, DiscoveryRequest::register(long(number))));
        for reply in world.call_batch(requests.collect()) {
            assert_eq!(reply.status, DiscoveryStatus::Ok);
        }
    }
    let hard = format!("/*{}", "a".repeat(254));
    let refused = world.call(REMOTE, watch(Some(&hard), None, 0));
    assert_eq!(refused.status, DiscoveryStatus::Error);
    assert!(refused.message.contains("too long"), "{}", refused.message);
    assert_eq!(world.call(REMOTE, watch(Some("/*/7/*"), None, 0)).topics.len(), 100);
}

#[test]
fn a_watch_begins_with_a_snapshot_and_goes_on_with_events() {
    let mut world = World::new();
    for name in ["/b", "/a"] {
        register(&mut world, name, "node");
    }
    let first = world.call(REMOTE, watch(None, None, MINUTE_MS));
    assert_eq!(first.topics, [info("/b", "node"), info("/a", "node")]);
    let ext = first.ext.unwrap();
    assert_eq!((ext.epoch, ext.revision, ext.snapshot), (Some(7), Some(2), Some(true)));
    assert_eq!(ext.events, None);

    let number = world.send(REMOTE, watch(None, at(2), MINUTE_MS));
    assert!(world.replies.is_empty());
    unregister(&mut world, "/b");
    let ext = watch_reply(&mut world, number);
    assert_eq!((ext.epoch, ext.revision, ext.snapshot), (Some(7), Some(3), None));
    assert_eq!(happened(&ext), [event("unregistered", "/b", 3)]);
    let gone = &ext.events.unwrap()[0];
    assert_eq!(gone.topic_info, info("/b", "node"), "the topic as it was registered last");
    assert_eq!(gone.reason, Some(RemovalReason::Unregistered));

    let again = world.call(REMOTE, watch(None, at(0), MINUTE_MS)).ext.unwrap();
    let all = [event("registered", "/b", 1), event("registered", "/a", 2)];
    let all = all.into_iter().chain([event("unregistered", "/b", 3)]);
    assert_eq!(happened(&again), all.collect::<Vec<_>>(), "all earlier events come at once");
}

#[test]
fn a_watch_gets_only_events_that_match_its_filter() {
    let mut world = World::new();
    for name in ["/camera/left", "/lidar"] {
        register(&mut world, name, "node");
    }
    let first = world.call(REMOTE, watch(Some("/camera/*"), None, 0));
    assert_eq!(first.topics, [info("/camera/left", "node")]);
    let filters = ["/camera/*", "/camera/right", "/lidar", "/*"];
    let numbers = filters.map(|filter| world.send(REMOTE, watch(Some(filter), at(2), MINUTE_MS)));
    register(&mut world, "/camera/right", "node");
    for number in &numbers[..2] {
        let ext = watch_reply(&mut world, *number);
        assert_eq!(happened(&ext), [event("registered", "/camera/right", 3)]);
    }
    unregister(&mut world, "/lidar");
    for number in &numbers[2..] {
        let ext = watch_reply(&mut world, *number);
        assert_eq!(happened(&ext), [event("unregistered", "/lidar", 4)]);
        assert_eq!(ext.revision, Some(4));
    }
    let nothing = world.call(REMOTE, watch(Some("/nope"), at(0), 0)).ext.unwrap();
    assert_eq!(
        (nothing.revision, nothing.events),
        (Some(4), Some(vec![])),
        "the reply covers every event"
    );
}

#[test]
fn a_limit_cuts_events_but_never_a_snapshot() {
    let mut world = World::new();
    for number in 0..5 {
        register(&mut world, &format!("/{number}"), "node");
    }
    let limited = |since, limit| {
        let ext = RequestExt { since, limit: Some(limit), ..RequestExt::default() };
        DiscoveryRequest::watch(ext)
    };
    assert_eq!(world.call(REMOTE, limited(None, 1)).topics.len(), 5);
    let ext = world.call(REMOTE, limited(at(0), 2)).ext.unwrap();
    assert_eq!(happened(&ext), [event("registered", "/0", 1), event("registered", "/1", 2)]);
    assert_eq!(ext.revision, Some(2));
    let ext = world.call(REMOTE, limited(at(3), 2)).ext.unwrap();
    assert_eq!((happened(&ext).len(), ext.revision), (2, Some(5)), "nothing was cut");
    let ext = world.call(REMOTE, limited(at(0), 0)).ext.unwrap();
    assert_eq!((happened(&ext).len(), ext.revision), (1, Some(1)), "at least one");
}

#[test]
fn a_watch_that_is_far_behind_gets_its_events_in_parts() {
    let mut world = World::new();
    let mut registered = 0;
    while registered < 2500 {
        let requests = (registered..registered + 500).map(|number| {
            (REMOTE, DiscoveryRequest::register(info(&format!("/{number}"), "node")))
        });
        world.call_batch(requests.collect());
        registered += 500;
    }
    let (mut seen, mut replies) = (0, Vec::new());
    while seen < 2500 {
        let ext = world.call(REMOTE, watch(None, at(seen), 0)).ext.unwrap();
        replies.push(happened(&ext).len());
        seen = ext.revision.unwrap();
    }
    assert_eq!(replies, [1000, 1000, 500]);
}

#[test]
fn an_unknown_since_gets_a_snapshot() {
    let mut world = World::with(
        Settings { history: 2, ..settings() },
        Snapshot { epoch: 7, ..Snapshot::default() },
    );
    for number in 0..4 {
        register(&mut world, &format!("/{number}"), "node");
    }
    let is_snapshot = |world: &mut World, epoch, revision| {
        let since = Some(Since { epoch, revision });
        let ext = world.call(REMOTE, watch(None, since, 0)).ext.unwrap();
        assert_eq!((ext.epoch, ext.revision), (Some(7), Some(4)));
        assert_ne!(ext.snapshot.is_some(), ext.events.is_some());
        ext.snapshot == Some(true)
    };
    assert!(is_snapshot(&mut world, 7, 1), "too old");
    assert!(!is_snapshot(&mut world, 7, 2));
    assert!(!is_snapshot(&mut world, 7, 4));
    assert!(is_snapshot(&mut world, 7, 5), "ahead");
    assert!(is_snapshot(&mut world, 8, 4), "of another epoch");
}

#[test]
fn a_reset_history_wakes_every_watch() {
    let mut world = World::new();
    register(&mut world, "/x", "node");
    let filters = [None, Some("/x"), Some("/y*")];
    let numbers = filters.map(|filter| world.send(REMOTE, watch(filter, at(1), MINUTE_MS)));
    let waiting = world.send(REMOTE, wait("/y", MINUTE_MS));
    world.reset_history(8);
    for ((number, filter), topics) in numbers.into_iter().zip(filters).zip([1, 1, 0]) {
        // The reply ends the old history. A WATCH that continues there gets a snapshot.
        let ext = watch_reply(&mut world, number);
        assert_eq!((ext.epoch, ext.revision, ext.events), (Some(7), Some(1), Some(vec![])));
        let reply = world.call(REMOTE, watch(filter, at(1), MINUTE_MS));
        let ext = reply.ext.unwrap();
        assert_eq!((ext.epoch, ext.snapshot, reply.topics.len()), (Some(8), Some(true), topics));
    }
    assert!(world.replies.is_empty());
    register(&mut world, "/y", "node");
    assert_eq!(world.replies.remove(&waiting).unwrap().status, DiscoveryStatus::Ok);
}

#[test]
fn a_large_reply_is_cut_and_the_next_one_continues() {
    let mut world = World::new();
    let long = |number: usize| TopicInfo {
        address: "x".repeat(1000),
        ..info(&format!("/{number}"), "node")
    };
    let number = world.send(REMOTE, watch(None, at(0), MINUTE_MS));
    let requests = (0..400).map(|number| (REMOTE, DiscoveryRequest::register(long(number))));
    world.call_batch(requests.collect());
    let ext = watch_reply(&mut world, number);
    let events = happened(&ext).len();
    assert!((230..270).contains(&events), "{events} events of 1 kB");
    assert_eq!(ext.revision, Some(events as u64));
    let ext = world.call(REMOTE, watch(None, at(events as u64), 0)).ext.unwrap();
    assert_eq!(happened(&ext)[0], event("registered", &format!("/{events}"), events as u64 + 1));
}

#[test]
fn waking_many_watches_has_a_bound_and_no_watch_misses_an_event() {
    const WATCHES: usize = 3000;
    let mut world = World::new();
    let mut watchers: Vec<_> =
        (0..WATCHES).map(|limit| Watcher::new(None, Some(1 + limit as u64 % 900))).collect();
    for watcher in &mut watchers {
        watcher.catch_up(&mut world);
    }
    let long = |number: usize| TopicInfo {
        address: "x".repeat(1000),
        ..info(&format!("/{number}"), "node")
    };
    let requests = (0..200).map(|number| (REMOTE, DiscoveryRequest::register(long(number))));
    world.send_batch(requests.collect());
    let bytes = world.reply_bytes;
    assert!(bytes < 8 * 1024 * 1024, "{bytes} bytes at once");
    let list = world.list();
    for watcher in &mut watchers {
        watcher.catch_up(&mut world);
        watcher.check(&list, &[]);
    }
}

#[test]
fn an_eviction_event_has_a_reason() {
    let mut world = World::new();
    register(&mut world, "/x", "node");
    let number = world.send(REMOTE, watch(None, at(1), MINUTE_MS));
    world.set_endpoint(&info("/x", "node").address, ProbeResult::Dead);
    world.kill(common::process(10));
    let events = watch_reply(&mut world, number).events.unwrap();
    assert_eq!(events[0].kind, EventKind::Evicted);
    assert_eq!(events[0].reason, Some(RemovalReason::OwnerExited));
}

#[test]
fn a_change_that_is_not_stored_wakes_no_waiter() {
    let mut world = World::new();
    register(&mut world, "/there", "node");
    let waiting = world.send(REMOTE, wait("/x", MINUTE_MS));
    let watching = world.send(REMOTE, watch(None, at(1), MINUTE_MS));
    world.disk_is_full = true;
    let refused = world.call_batch(vec![
        (REMOTE, DiscoveryRequest::register(info("/x", "node"))),
        (REMOTE, wait("/x", 0)),
        (REMOTE, watch(None, at(1), 0)),
        (REMOTE, DiscoveryRequest::watch(RequestExt::default())),
    ]);
    let statuses: Vec<_> = refused.iter().map(|reply| reply.status).collect();
    let (ok, error) = (DiscoveryStatus::Ok, DiscoveryStatus::Error);
    assert_eq!(statuses, [error, DiscoveryStatus::NotFound, ok, ok]);
    assert_eq!(refused[2].ext.as_ref().unwrap().events, Some(vec![]));
    assert_eq!(refused[3].topics, [info("/there", "node")]);
    assert!(world.replies.is_empty());

    world.disk_is_full = false;
    register(&mut world, "/x", "another");
    assert_eq!(world.replies.remove(&waiting).unwrap().topic_info, Some(info("/x", "another")));
    assert_eq!(happened(&watch_reply(&mut world, watching)), [event("registered", "/x", 2)]);
}

#[test]
fn a_request_parked_in_a_rolled_back_batch_waits_for_the_restored_state() {
    let mut world = World::new();
    register(&mut world, "/x", "node");
    world.disk_is_full = true;
    // When the registry decides about the WAIT, the topic is removed. The rollback restores it.
    let by_name = |request| (local(1, 10), request);
    let replies = world.call_batch(vec![
        by_name(DiscoveryRequest::unregister("/x")),
        by_name(wait("/x", MINUTE_MS)),
    ]);
    assert_eq!(replies[0].status, DiscoveryStatus::Error);
    assert_eq!(replies[1].topic_info, Some(info("/x", "node")));

    // The next change has the revision of the one that was rolled back, and must wake the watch.
    let numbers = world.send_batch(vec![
        by_name(DiscoveryRequest::register(info("/other", "node"))),
        by_name(watch(Some("/x*"), at(1), MINUTE_MS)),
    ]);
    world.disk_is_full = false;
    world.replies.clear();
    unregister(&mut world, "/x");
    assert_eq!(happened(&watch_reply(&mut world, numbers[1])), [event("unregistered", "/x", 2)]);
}

#[test]
fn a_new_request_on_a_req_socket_cancels_the_parked_one() {
    let mut world = World::new();
    let request_on = |connection, is_req, request| {
        let from = reply_to(connection);
        Input::Request(PeerRequest {
            reply_to: from,
            peer: REMOTE,
            is_req,
            request: Ok(Box::new(request)),
        })
    };
    for is_req in [true, false] {
        let connection = 100 + usize::from(is_req);
        world.deliver(vec![request_on(connection, is_req, wait("/x", MINUTE_MS))]);
        assert!(!world.replies.contains_key(&connection), "it is parked");
        world.deliver(vec![request_on(connection, is_req, DiscoveryRequest::ping())]);
        assert_eq!(world.replies.remove(&connection).unwrap().message, "pong");
        assert_eq!(world.cancelled.pop(), is_req.then_some(connection));
    }
    register(&mut world, "/x", "node");
    assert!(world.replies.remove(&101).is_none() && world.replies.remove(&100).is_some());
}

#[test]
fn a_disconnected_peer_gets_no_reply() {
    let mut world = World::new();
    let number = world.send(REMOTE, wait("/x", MINUTE_MS));
    let watching = world.send(REMOTE, watch(None, at(0), MINUTE_MS));
    assert!(world.replies.is_empty(), "both are parked");
    world.deliver(vec![
        Input::Disconnected(ConnectionId(number)),
        Input::Disconnected(ConnectionId(99)),
    ]);
    assert_eq!(world.cancelled, [number]);
    register(&mut world, "/x", "node");
    watch_reply(&mut world, watching);
    assert!(world.replies.is_empty());
    assert_eq!(world.registry.next_answer(), None);
}

#[test]
fn all_parked_requests_are_answered_at_shutdown() {
    let mut world = World::new();
    let waiting = world.send(REMOTE, wait("/x", MINUTE_MS));
    let watching = world.send(REMOTE, watch(None, at(0), MINUTE_MS));
    world.deliver(vec![Input::ShuttingDown]);
    assert_eq!(world.replies.remove(&waiting).unwrap().status, DiscoveryStatus::NotFound);
    assert_eq!(watch_reply(&mut world, watching).events, Some(vec![]));
}

#[test]
fn stats_contain_the_counters() {
    let mut world = World::new();
    register(&mut world, "/x", "node");
    register(&mut world, "/y", "node");
    unregister(&mut world, "/y");
    world.send(REMOTE, wait("/z", MINUTE_MS));
    world.send(REMOTE, watch(None, at(3), MINUTE_MS));
    let reply = world.call(REMOTE, DiscoveryRequest::stats());
    assert_eq!(reply.status, DiscoveryStatus::Ok);
    let ext = reply.ext.unwrap();
    assert_eq!((ext.topics, ext.revision, ext.uptime_ms), (Some(1), Some(3), Some(0)));
    let expected = [
        ("registered", 2),
        ("unregistered", 1),
        ("evicted", 0),
        ("waits", 1),
        ("watches", 1),
        ("history", 3),
        ("connections", CONNECTIONS),
    ];
    for (name, count) in expected {
        assert_eq!(ext.counts.get(name), Some(&count), "{name}");
    }
}

#[test]
fn a_wait_that_a_rollback_parks_is_cancelled_when_its_peer_has_disconnected() {
    let mut world = World::new();
    world.disk_is_full = true;
    let request = |number, request| {
        let request = Ok(Box::new(request));
        Input::Request(PeerRequest {
            reply_to: reply_to(number),
            peer: REMOTE,
            is_req: false,
            request,
        })
    };
    // The topic seems to be registered when the WAIT is decided, and after the rollback it is not.
    world.deliver(vec![
        request(100, DiscoveryRequest::register(info("/x", "node"))),
        request(101, wait("/x", MINUTE_MS)),
        Input::Disconnected(ConnectionId(101)),
    ]);
    assert_eq!(world.cancelled, [101]);
    assert_eq!(world.registry.next_answer(), None, "no waiter is left");
}

#[test]
fn a_watch_far_behind_costs_what_its_reply_holds() {
    let mut world = World::new();
    let requests = (0..500)
        .map(|number| (REMOTE, DiscoveryRequest::register(info(&format!("/{number}"), "n"))));
    world.call_batch(requests.collect());
    let mut cost = |limit| {
        let ext = RequestExt { since: at(0), limit: Some(limit), ..RequestExt::default() };
        let request = Ok(Box::new(DiscoveryRequest::watch(ext)));
        let reply_to = reply_to(900);
        let request = PeerRequest { reply_to, peer: REMOTE, is_req: false, request };
        world.registry.handle(Input::Request(request), world.now);
        let cost = world.registry.cost();
        world.registry.take_effects(world.now);
        cost
    };
    assert!(cost(1) * 100 < cost(500), "a low limit is cheap");
}

#[derive(Clone, Copy, Debug)]
enum WatchOperation {
    Register {
        topic: usize,
        fingerprint: u64,
    },
    Unregister {
        topic: usize,
    },
    Evict {
        topic: usize,
    },
    Several {
        first: usize,
    },
    Disk {
        full: bool,
    },
    Store {
        commit_rounds: usize,
    },
    /// A watcher applies its replies. Between two of these it falls behind.
    CatchUp {
        watcher: usize,
    },
    LoseReply {
        watcher: usize,
    },
    Restart,
    ResetHistory,
    Advance,
}

const NAMES: [&str; 4] = ["/a", "/ab", "/b", "/c"];

fn operations() -> impl Strategy<Value = WatchOperation> {
    prop_oneof![
        6 => (0..4_usize, 0..3_u64)
            .prop_map(|(topic, fingerprint)| WatchOperation::Register { topic, fingerprint }),
        4 => (0..4_usize).prop_map(|topic| WatchOperation::Unregister { topic }),
        2 => (0..4_usize).prop_map(|topic| WatchOperation::Evict { topic }),
        2 => (0..4_usize).prop_map(|first| WatchOperation::Several { first }),
        1 => any::<bool>().prop_map(|full| WatchOperation::Disk { full }),
        1 => (0..3_usize).prop_map(|commit_rounds| WatchOperation::Store { commit_rounds }),
        4 => (0..4_usize).prop_map(|watcher| WatchOperation::CatchUp { watcher }),
        2 => (0..4_usize).prop_map(|watcher| WatchOperation::LoseReply { watcher }),
        1 => Just(WatchOperation::Restart),
        1 => Just(WatchOperation::ResetHistory),
        1 => Just(WatchOperation::Advance),
    ]
}

fn apply(world: &mut World, watchers: &mut [Watcher], operation: WatchOperation, epoch: u64) {
    // Each topic has its own owner process, so that the daemon can evict it alone.
    let owner = |topic: usize, world: &World| {
        let mut pid = 10 + u32::try_from(topic).unwrap();
        while world.exited.contains(&common::process(pid)) {
            pid += 10;
        }
        local(0, pid)
    };
    match operation {
        WatchOperation::Register { topic, fingerprint } => {
            let info = TopicInfo { fingerprint, ..info(NAMES[topic], "node") };
            world.call(owner(topic, world), DiscoveryRequest::register(info));
        }
        WatchOperation::Unregister { topic } => {
            world.call(owner(topic, world), DiscoveryRequest::unregister(NAMES[topic]));
        }
        WatchOperation::Evict { topic } => {
            world.set_endpoint(&info(NAMES[topic], "node").address, ProbeResult::Dead);
            world.kill(owner(topic, world).process.unwrap());
        }
        WatchOperation::Several { first } => {
            let requests = [0, 1].map(|next| {
                let topic = (first + next) % 4;
                (owner(topic, world), DiscoveryRequest::register(info(NAMES[topic], "node")))
            });
            let gone = (owner(first, world), DiscoveryRequest::unregister(NAMES[first]));
            world.call_batch(requests.into_iter().chain([gone]).collect());
        }
        WatchOperation::Disk { full } => world.disk_is_full = full,
        WatchOperation::Store { commit_rounds } => world.commit_rounds = commit_rounds,
        WatchOperation::CatchUp { watcher } => watchers[watcher].catch_up(world),
        WatchOperation::LoseReply { watcher } => {
            watchers[watcher].lose_reply(world);
        }
        WatchOperation::Restart => {
            world.restart();
            for watcher in watchers {
                watcher.lose_reply(world);
            }
        }
        WatchOperation::ResetHistory => world.reset_history(epoch),
        WatchOperation::Advance => world.advance(2),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_snapshot_and_its_events_match_the_list_without_duplicates(
        operations in vec(operations(), 1..60),
        history in prop_oneof![Just(0_usize), 1..6_usize, Just(1000)],
    ) {
        let start = Snapshot { epoch: 7, ..Snapshot::default() };
        let mut world = World::with(Settings { history, ..settings() }, start);
        let mut watchers = [(None, None), (None, Some(1)), (Some("/a*"), Some(2)), (Some("/b"), None)]
            .map(|(filter, limit)| Watcher::new(filter, limit));
        for (epoch, operation) in (8..).zip(operations) {
            apply(&mut world, &mut watchers, operation, epoch);
            // The first watcher gets every change that is committed.
            while world.is_committing() {
                world.finish_commit();
            }
            watchers[0].catch_up(&mut world);
            let list = world.list();
            watchers[0].check(&list, &world.hidden(&list));
        }
        let list = world.list();
        for watcher in &mut watchers {
            watcher.catch_up(&mut world);
            watcher.check(&list, &world.hidden(&list));
        }
    }
}
