//! What the registry does while a commit is under way: it answers requests that only read, gathers
//! further changes, and keeps the order of each connection.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{REMOTE, World, info, local, process, reply_to};
use cortex_daemon::peer::ConnectionId;
use cortex_daemon::registry::{Input, PeerRequest, ProbeResult};
use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, EndpointState, RequestExt, Session,
    Since, TopicInfo,
};

const ME: u32 = 1;

/// A world in which a commit takes until the test ends it.
fn slow_world() -> World {
    let mut world = World::new();
    world.commit_rounds = usize::MAX;
    world
}

fn register(world: &mut World, name: &str) -> usize {
    world.send(local(ME, 10), DiscoveryRequest::register(info(name, "n")))
}

/// The names that another peer sees, by LIST and by LOOKUP.
fn seen(world: &mut World) -> Vec<String> {
    let names = world.names();
    for name in ["/a", "/b", "/c"] {
        let status = world.call(REMOTE, DiscoveryRequest::lookup(name)).status;
        assert_eq!(status == DiscoveryStatus::Ok, names.iter().any(|known| known == name));
    }
    names
}

fn input(connection: usize, is_req: bool, request: DiscoveryRequest) -> Input {
    let (reply_to, request) = (reply_to(connection), Ok(Box::new(request)));
    Input::Request(PeerRequest { reply_to, peer: local(ME, 10), is_req, request })
}

/// One round in which the store ends nothing. Returns the replies on a connection, in their order.
fn round(world: &mut World, connection: usize, inputs: Vec<Input>) -> Vec<DiscoveryResponse> {
    for input in inputs {
        world.registry.handle(input, world.now);
    }
    let effects = world.registry.take_effects(world.now);
    let replies = effects.replies.into_iter();
    replies
        .filter(|reply| reply.to.connection == ConnectionId(connection))
        .map(|reply| DiscoveryResponse::from_bytes(&reply.body.into_bytes(Vec::new)).unwrap())
        .collect()
}

#[test]
fn a_request_that_only_reads_gets_the_committed_state_at_once() {
    let mut world = slow_world();
    let first = register(&mut world, "/a");
    assert_eq!(seen(&mut world), [""; 0]);
    let request = DiscoveryRequest { ext: Some(RequestExt::default()), ..DiscoveryRequest::ping() };
    let pong = world.call(REMOTE, request).ext.unwrap();
    assert_eq!((pong.revision, pong.topics), (Some(0), Some(0)));
    world.finish_commit();
    assert_eq!(world.replies.remove(&first).unwrap().status, DiscoveryStatus::Ok);
    assert_eq!(seen(&mut world), ["/a"]);

    let second = world.send(local(ME, 10), DiscoveryRequest::unregister("/a"));
    assert_eq!(seen(&mut world), ["/a"]);
    assert!(!world.replies.contains_key(&second));
    world.finish_commit();
    assert_eq!(seen(&mut world), [""; 0]);
}

#[test]
fn changes_that_come_during_a_commit_share_the_next_one() {
    let mut world = slow_world();
    let first = register(&mut world, "/a");
    let later = ["/b", "/c"].map(|name| register(&mut world, name));
    world.finish_commit();
    assert!(world.replies.contains_key(&first));
    assert_eq!(seen(&mut world), ["/a"]);
    assert!(later.iter().all(|number| !world.replies.contains_key(number)));
    world.finish_commit();
    assert!(later.iter().all(|number| world.replies.contains_key(number)));
    assert_eq!(seen(&mut world), ["/a", "/b", "/c"]);
    assert_eq!(world.events.len(), 3);
}

#[test]
fn a_connection_reads_its_own_changes_in_their_order() {
    let mut world = slow_world();
    let requests = [
        DiscoveryRequest::register(info("/a", "n")),
        DiscoveryRequest::lookup("/a"),
        DiscoveryRequest::list(),
        DiscoveryRequest::unregister("/a"),
        DiscoveryRequest::lookup("/a"),
    ];
    let inputs = requests.map(|request| input(900, false, request)).into();
    assert_eq!(round(&mut world, 900, inputs), []);
    assert!(world.registry.begin_commit(world.now).is_some());
    assert_eq!(round(&mut world, 900, vec![input(900, false, DiscoveryRequest::ping())]), []);
    world.registry.commit(world.now);
    let replies = round(&mut world, 900, Vec::new());
    let summary: Vec<_> = replies.iter().map(|reply| (reply.status, reply.topics.len())).collect();
    let (ok, not_found) = (DiscoveryStatus::Ok, DiscoveryStatus::NotFound);
    assert_eq!(summary, [(ok, 0), (ok, 0), (ok, 1), (ok, 0), (not_found, 0)]);
    assert_eq!(world.registry.begin_commit(world.now), None, "a PING changes nothing");
    assert_eq!(round(&mut world, 900, Vec::new())[0].message, "pong");
}

#[test]
fn when_a_commit_fails_the_changes_gathered_meanwhile_fail_as_well() {
    let mut world = slow_world();
    let first = register(&mut world, "/a");
    let update = world.send(local(ME, 11), DiscoveryRequest::register(info("/a", "n")));
    let refused = world.send(local(2, 12), DiscoveryRequest::register(info("/a", "other")));
    world.disk_is_full = true;
    world.finish_commit();
    for number in [first, update, refused] {
        let reply = world.replies.remove(&number).unwrap();
        assert_eq!(reply.message, "Topic /a is not registered: the disk is full");
    }
    world.disk_is_full = false;
    assert_eq!((seen(&mut world), world.events.len()), (Vec::<String>::new(), 0));
    let again = register(&mut world, "/a");
    world.finish_commit();
    assert_eq!(world.replies.remove(&again).unwrap().status, DiscoveryStatus::Ok);
    assert_eq!(world.events[0].1.revision, 1, "revisions have no gap");
}

#[test]
fn a_dead_topic_is_gone_before_its_eviction_is_stored() {
    for disk_is_full in [false, true] {
        let mut world = World::new();
        for (name, pid) in [("/a", 10), ("/b", 11)] {
            let topic = info(name, "n");
            world.set_endpoint(&topic.address, ProbeResult::Dead);
            world.call(local(ME, pid), DiscoveryRequest::register(topic));
        }
        world.advance(1);
        world.commit_rounds = usize::MAX;
        register(&mut world, "/c");
        assert_eq!(seen(&mut world), ["/a", "/b"]);
        world.kill(process(11));
        assert_eq!(seen(&mut world), ["/a"], "the store has /c under way, and not the eviction");
        world.disk_is_full = disk_is_full;
        world.finish_commit();
        world.finish_commit();
        let expected: &[&str] = if disk_is_full { &["/a"] } else { &["/a", "/c"] };
        assert_eq!(seen(&mut world), expected);
    }
}

#[test]
fn a_registration_whose_publisher_dies_during_its_commit_is_gone_after_it() {
    let mut world = slow_world();
    let topic = info("/a", "n");
    world.set_endpoint(&topic.address, ProbeResult::Dead);
    let number = world.send(local(ME, 10), DiscoveryRequest::register(topic));
    world.kill(process(10));
    world.finish_commit();
    assert_eq!(world.replies.remove(&number).unwrap().status, DiscoveryStatus::Ok);
    assert_eq!(seen(&mut world), [""; 0]);
    world.finish_commit();
    assert_eq!(world.stored.len(), 0);
}

#[test]
fn waits_and_watches_wake_with_the_commit() {
    let mut world = slow_world();
    let wait = world.send(REMOTE, DiscoveryRequest::wait("/a", 60_000));
    let watch = |revision| {
        let since = Some(Since { epoch: 7, revision });
        DiscoveryRequest::watch(RequestExt { since, ..RequestExt::default() })
    };
    let early = world.send(REMOTE, watch(0));
    register(&mut world, "/a");
    let late = world.send(REMOTE, watch(0));
    register(&mut world, "/b");
    assert!(world.replies.is_empty());
    world.finish_commit();
    assert_eq!(world.replies.remove(&wait).unwrap().status, DiscoveryStatus::Ok);
    for number in [early, late] {
        let ext = world.replies.remove(&number).unwrap().ext.unwrap();
        assert_eq!((ext.revision, ext.events.unwrap().len()), (Some(1), 1), "/b is not stored");
    }
    let next = world.call(REMOTE, watch(0)).ext.unwrap();
    assert_eq!((next.revision, next.events.unwrap().len()), (Some(1), 1));
    let snapshot = world.call(REMOTE, DiscoveryRequest::watch(RequestExt::default()));
    assert_eq!((snapshot.topics.len(), snapshot.ext.unwrap().revision), (1, Some(1)));
}

#[test]
fn a_req_peer_that_gives_up_a_register_gets_no_reply_to_it() {
    let mut world = slow_world();
    let register = DiscoveryRequest::register(info("/a", "n"));
    assert_eq!(round(&mut world, 900, vec![input(900, true, register)]), []);
    assert!(world.registry.begin_commit(world.now).is_some());
    world.now.instant += Duration::from_millis(300);
    let lookup = DiscoveryRequest::lookup("/missing");
    assert_eq!(round(&mut world, 900, vec![input(900, true, lookup)]), []);
    world.registry.commit(world.now);
    assert_eq!(world.registry.begin_commit(world.now), None);
    let replies = round(&mut world, 900, Vec::new());
    let messages: Vec<_> = replies.iter().map(|reply| reply.message.as_str()).collect();
    assert_eq!(messages, ["Topic /missing not found"]);
    assert_eq!(world.registry.topic_count(), 1, "the topic is registered all the same");
}

#[test]
fn a_peer_that_does_not_wait_for_replies_gets_all_of_them() {
    let mut world = slow_world();
    let names = ["/a", "/b", "/c"];
    let inputs = names.map(|name| input(900, true, DiscoveryRequest::register(info(name, "n"))));
    assert_eq!(round(&mut world, 900, inputs.into()), []);
    assert!(world.registry.begin_commit(world.now).is_some());
    world.registry.commit(world.now);
    let replies = round(&mut world, 900, Vec::new());
    let messages: Vec<_> = replies.into_iter().map(|reply| reply.message).collect();
    assert_eq!(messages, names.map(|name| format!("Registered topic: {name}")));
}

#[test]
fn a_renewal_during_a_commit_that_fails_keeps_the_session() {
    let mut world = World::new();
    let session = Session { id: "s".into(), lease_ms: Some(1000) };
    let in_session = |name| {
        let ext = RequestExt { session: Some(session.clone()), ..RequestExt::default() };
        DiscoveryRequest { ext: Some(ext), ..DiscoveryRequest::register(info(name, "n")) }
    };
    world.call(REMOTE, in_session("/a"));
    world.commit_rounds = usize::MAX;
    world.send(REMOTE, in_session("/b"));
    world.advance_ms(900);
    world.call(REMOTE, DiscoveryRequest::renew(session.clone()));
    world.disk_is_full = true;
    world.finish_commit();
    world.advance_ms(900);
    assert_eq!(world.names(), ["/a"]);
    world.advance_ms(101);
    assert_eq!(world.names(), [""; 0]);
}

#[test]
fn a_probe_begins_only_for_a_registration_that_is_committed() {
    let mut world = slow_world();
    world.delayed_probes = Some(Vec::new());
    let number = world.send(REMOTE, DiscoveryRequest::register(info("/a", "n")));
    world.advance(1);
    assert_eq!(world.delayed_probes.as_ref().unwrap().len(), 0);
    world.finish_commit();
    assert!(world.replies.contains_key(&number));
    assert_eq!(world.delayed_probes.as_ref().unwrap().len(), 1);
}

fn snapshot(world: &mut World) -> Vec<String> {
    let reply = world.call(REMOTE, DiscoveryRequest::watch(RequestExt::default()));
    reply.topics.into_iter().map(|info| info.name.to_string()).collect()
}

#[test]
fn a_snapshot_that_is_asked_for_again_lacks_a_topic_that_died_during_the_commit() {
    let mut world = World::new();
    let topic = info("/a", "n");
    world.set_endpoint(&topic.address, ProbeResult::Dead);
    world.call(local(ME, 11), DiscoveryRequest::register(topic));
    world.advance(1);
    world.commit_rounds = usize::MAX;
    register(&mut world, "/c");
    assert_eq!(snapshot(&mut world), ["/a"]);
    world.kill(process(11));
    assert_eq!(snapshot(&mut world), [""; 0]);
}

#[test]
fn a_topic_whose_lease_ends_while_its_update_is_committed_is_gone() {
    for disk_is_full in [false, true] {
        let mut world = World::new();
        let session = Session { id: "s".into(), lease_ms: Some(1000) };
        let in_session = |message_type: &str| {
            let ext = RequestExt { session: Some(session.clone()), ..RequestExt::default() };
            let topic = TopicInfo { message_type: message_type.into(), ..info("/a", "n") };
            DiscoveryRequest { ext: Some(ext), ..DiscoveryRequest::register(topic) }
        };
        world.call(REMOTE, in_session("M"));
        world.commit_rounds = usize::MAX;
        world.send(REMOTE, in_session("N"));
        assert_eq!(seen(&mut world), ["/a"]);
        world.advance_ms(1001);
        assert_eq!(seen(&mut world), [""; 0]);
        world.disk_is_full = disk_is_full;
        world.finish_commit();
        assert_eq!(seen(&mut world), [""; 0]);
    }
}

#[test]
fn a_wait_that_ends_during_a_commit_does_not_find_what_its_connection_unregistered() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    let unregister = input(900, false, DiscoveryRequest::unregister("/a"));
    let wait = input(900, false, DiscoveryRequest::wait("/a", 50));
    assert_eq!(round(&mut world, 900, vec![unregister, wait]), []);
    assert!(world.registry.begin_commit(world.now).is_some());
    world.now.instant += Duration::from_millis(60);
    assert_eq!(round(&mut world, 900, Vec::new()), [], "the change comes first");
    world.registry.commit(world.now);
    let replies = round(&mut world, 900, Vec::new());
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [DiscoveryStatus::Ok, DiscoveryStatus::NotFound]);
}

#[test]
fn a_watch_misses_no_event_when_the_history_is_lost_before_its_reply() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    // The store opens its file again meanwhile, so the change waits.
    let register = input(900, false, DiscoveryRequest::register(info("/b", "n")));
    let since = Some(Since { epoch: 7, revision: 0 });
    let watch = DiscoveryRequest::watch(RequestExt { since, ..RequestExt::default() });
    assert_eq!(round(&mut world, 900, vec![register, input(900, false, watch)]), []);
    world.registry.reset_history(8);
    assert!(world.registry.begin_commit(world.now).is_some());
    world.registry.commit(world.now);
    let ext = round(&mut world, 900, Vec::new()).remove(1).ext.unwrap();
    let position = (ext.epoch, ext.revision, ext.events.map(|events| events.len()));
    assert_eq!(position, (Some(7), Some(0), Some(0)), "the next request gets a snapshot");
}

#[test]
fn a_cancel_ends_a_watch_before_it_that_the_commit_parks() {
    let mut world = World::new();
    let since = Some(Since { epoch: 7, revision: 0 });
    let ext = RequestExt { since, filter: Some("/other".into()), ..RequestExt::default() };
    let requests = [
        DiscoveryRequest::register(info("/a", "n")),
        DiscoveryRequest::watch(ext),
        DiscoveryRequest::cancel(),
    ];
    let inputs = requests.map(|request| input(900, false, request)).into();
    assert_eq!(round(&mut world, 900, inputs), []);
    assert!(world.registry.begin_commit(world.now).is_some());
    world.registry.commit(world.now);
    let replies = round(&mut world, 900, Vec::new());
    let cancelled = replies.into_iter().map(|reply| reply.ext.and_then(|ext| ext.cancelled));
    assert_eq!(cancelled.collect::<Vec<_>>(), [None, Some(1)]);
    let stats = world.call(REMOTE, DiscoveryRequest::stats()).ext.unwrap();
    assert_eq!(stats.counts["watches"], 0);
}

#[test]
fn a_peer_hears_that_an_endpoint_is_alive_when_the_store_has_that() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    world.commit_rounds = usize::MAX;
    world.advance(1);
    let endpoint = |world: &mut World| {
        let lookup = DiscoveryRequest::lookup("/a").with_ext(RequestExt::default());
        world.call(REMOTE, lookup).ext.unwrap().entry.unwrap().endpoint
    };
    assert_eq!(endpoint(&mut world), EndpointState::Unknown);
    world.finish_commit();
    assert_eq!(endpoint(&mut world), EndpointState::Alive);
    assert!(world.stored.values().all(|record| record.found_alive));
}
