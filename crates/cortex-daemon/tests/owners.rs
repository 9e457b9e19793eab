//! The rules of owners, probes and restarts, a test each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PROBE_INTERVAL, REMOTE, World, info, local, process};
use cortex_daemon::peer::{PeerIdentity, Process};
use cortex_daemon::registry::{EventKind, EvictionReason, Input, ProbeResult};
use cortex_proto::{DiscoveryRequest, DiscoveryStatus, EndpointState, RequestExt, TopicName};

fn register(world: &mut World, peer: PeerIdentity, name: &str, node: &str) -> DiscoveryStatus {
    world.call(peer, DiscoveryRequest::register(info(name, node))).status
}

fn address(name: &str, node: &str) -> String {
    info(name, node).address
}

fn evictions(world: &World) -> Vec<(String, EvictionReason)> {
    let reason = |kind| match kind {
        EventKind::Evicted(reason) => Some(reason),
        EventKind::Registered | EventKind::Updated | EventKind::Unregistered => None,
    };
    let evicted = |change: &cortex_daemon::registry::Change| {
        reason(change.kind).map(|reason| (change.info.name.to_string(), reason))
    };
    world.changes.iter().filter_map(evicted).collect()
}

fn endpoint(world: &mut World, name: &str) -> EndpointState {
    let request = DiscoveryRequest::lookup(name).with_ext(RequestExt::default());
    world.call(REMOTE, request).ext.unwrap().entry.unwrap().endpoint
}

#[test]
fn one_watch_serves_all_topics_of_a_process() {
    let mut world = World::new();
    for name in ["/a", "/b", "/c"] {
        register(&mut world, local(1, 10), name, "n");
    }
    // The world checks that a process is watched once.
    assert_eq!(world.watched, [process(10)].into());
    world.call(local(1, 10), DiscoveryRequest::unregister("/a"));
    world.call(local(1, 10), DiscoveryRequest::unregister("/b"));
    assert_eq!(world.watched, [process(10)].into(), "until its last topic is gone");
    world.call(local(1, 10), DiscoveryRequest::unregister("/c"));
    assert!(world.watched.is_empty());
}

#[test]
fn a_process_ends_its_endpoint_is_looked_at_and_its_topics_go() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 10), "/b", "n");
    register(&mut world, local(1, 11), "/c", "m");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.set_endpoint(&address("/b", "n"), ProbeResult::Dead);
    world.kill(process(10));
    assert_eq!(world.names(), ["/c"]);
    let gone = [
        ("/a".to_owned(), EvictionReason::OwnerExited),
        ("/b".to_owned(), EvictionReason::OwnerExited),
    ];
    assert_eq!(evictions(&world), gone);
}

#[test]
fn a_publisher_that_lives_is_never_looked_at_nor_evicted() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(3600);
    assert_eq!(
        world.names(),
        ["/a"],
        "its process lives: what its endpoint does is its own affair"
    );
}

#[test]
fn what_cannot_be_told_never_evicts() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, REMOTE, "/b", "n");
    for name in ["/a", "/b"] {
        world.set_endpoint(&address(name, "n"), ProbeResult::Unknown);
    }
    world.kill(process(10));
    world.advance(600);
    assert_eq!(world.names(), ["/a", "/b"]);
}

#[test]
fn an_orphan_whose_endpoint_greets_stays_and_is_looked_at_until_it_does_not() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.kill(process(10));
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Orphaned);
    world.advance(600);
    assert_eq!(world.names(), ["/a"]);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
}

#[test]
fn an_orphan_that_is_silent_twice_is_held_by_a_forked_child_and_goes() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Silent);
    world.kill(process(10));
    assert_eq!(world.names(), ["/a"], "once may be chance");
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
}

#[test]
fn a_late_look_does_not_hit_the_new_registration() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.delayed_probes = Some(Vec::new());
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.kill(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "n"), DiscoveryStatus::Ok);
    world.finish_probes();
    assert_eq!(world.names(), ["/a"]);
    assert_eq!(evictions(&world), []);
}

#[test]
fn a_late_end_does_not_hit_the_new_owner() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 11), "/a", "n");
    assert_eq!(world.watched, [process(11)].into());
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.deliver(vec![Input::ProcessExited(process(10))]);
    world.advance(60);
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn results_that_nobody_asked_for_mean_nothing() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    let name = TopicName::new("/a").unwrap();
    for revision in 0..4 {
        let result = ProbeResult::Dead;
        world.deliver(vec![Input::EndpointProbed { name: name.clone(), revision, result }]);
    }
    world.deliver(vec![Input::ProcessChecked(process(10)), Input::ProcessUnseen(process(99))]);
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn a_process_that_died_before_it_could_be_watched_is_gone() {
    let mut world = World::new();
    world.kill_unnoticed(process(10));
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    assert_eq!(register(&mut world, local(1, 10), "/a", "n"), DiscoveryStatus::Ok);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_pid_that_comes_back_is_another_process() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    let again = Process { start_time: 12_345, ..process(10) };
    let peer = PeerIdentity { uid: Some(1), process: Some(again) };
    register(&mut world, peer, "/b", "m");
    world.kill(process(10));
    assert_eq!(world.names(), ["/b"]);
}

#[test]
fn an_unseen_owner_s_topic_goes_after_two_failures_if_it_was_once_alive() {
    let mut world = World::new();
    register(&mut world, REMOTE, "/a", "n");
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Alive);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(world.names(), ["/a"], "one failure may be chance");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Alive);
    world.advance(PROBE_INTERVAL.as_secs());
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(world.names(), ["/a"], "failures count in a row");
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
}

#[test]
fn an_unseen_owner_s_topic_that_was_never_found_alive_stays() {
    let mut world = World::new();
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    register(&mut world, REMOTE, "/a", "n");
    world.advance(3600);
    assert_eq!(world.names(), ["/a"], "it may lie behind a firewall");
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Unknown);
}

#[test]
fn a_process_that_cannot_be_watched_is_unseen() {
    let mut world = World::new();
    world.unseen.insert(process(10));
    register(&mut world, local(1, 10), "/a", "n");
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Alive);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(2 * PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
}

#[test]
fn a_silent_endpoint_is_looked_at_ever_more_rarely() {
    let mut world = World::new();
    world.set_endpoint(&address("/a", "n"), ProbeResult::Silent);
    register(&mut world, REMOTE, "/a", "n");
    let mut probes = Vec::new();
    for second in 1..=300 {
        world.delayed_probes = Some(Vec::new());
        world.advance(1);
        if world.delayed_probes.as_ref().is_some_and(|delayed| !delayed.is_empty()) {
            probes.push(second);
        }
        world.finish_probes();
    }
    assert_eq!(probes, [5, 15, 35, 75, 135, 195, 255]);
}

#[test]
fn another_node_gets_the_topic_of_a_process_that_has_just_died() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    // The poll has not told of its end yet.
    world.kill_unnoticed(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
    assert_eq!(world.list(), [info("/a", "new")]);
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
}

#[test]
fn another_node_is_refused_while_the_owner_lives() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    let reply = world.call(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    assert_eq!(reply.status, DiscoveryStatus::AlreadyExists);
    assert_eq!(reply.message, "Topic /a already registered by old");
}

#[test]
fn a_refusal_waits_for_the_look_but_not_longer_than_a_second() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.delayed_probes = Some(Vec::new());
    world.kill(process(10));
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    assert_eq!(world.replies.get(&number), None, "it waits");
    world.advance(1);
    let reply = world.replies.remove(&number).unwrap();
    assert_eq!(reply.status, DiscoveryStatus::AlreadyExists, "nothing shows that it is dead");
}

#[test]
fn of_two_who_wait_for_a_dead_owner_s_topic_the_first_gets_it() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    world.kill_unnoticed(process(10));
    world.delayed_probes = Some(Vec::new());
    let first = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "first")));
    let second = world.send(local(1, 12), DiscoveryRequest::register(info("/a", "second")));
    world.finish_probes();
    assert_eq!(world.replies[&first].status, DiscoveryStatus::Ok);
    let refused = &world.replies[&second];
    assert_eq!(refused.message, "Topic /a already registered by first");
}

#[test]
fn an_orphan_is_looked_at_before_another_node_is_refused() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.kill(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::AlreadyExists);
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
}

#[test]
fn a_user_is_refused_another_s_topic_only_if_its_owner_lives() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    let reply = world.call(local(2, 11), DiscoveryRequest::register(info("/a", "n")));
    assert_eq!(reply.status, DiscoveryStatus::Error);
    let message = "Topic /a is not registered: it belongs to user 1, and you are user 2";
    assert_eq!(reply.message, message);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.kill_unnoticed(process(10));
    assert_eq!(register(&mut world, local(2, 11), "/a", "n"), DiscoveryStatus::Ok);
}

#[test]
fn a_node_that_comes_back_in_a_new_process_keeps_its_place() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 12), "/b", "m");
    world.kill_unnoticed(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "n"), DiscoveryStatus::Ok);
    assert_eq!(world.names(), ["/a", "/b"]);
    assert_eq!(world.watched, [process(11), process(12)].into());
    world.advance(60);
    assert_eq!(evictions(&world), []);
}

#[test]
fn a_restart_keeps_the_living_and_evicts_the_dead() {
    let mut world = World::new();
    for (pid, name) in [(10, "/a"), (11, "/b"), (12, "/c")] {
        register(&mut world, local(1, pid), name, "n");
    }
    world.kill_unnoticed(process(11));
    world.set_endpoint(&address("/b", "n"), ProbeResult::Dead);
    world.restart();
    assert_eq!(world.names(), ["/a", "/c"]);
    assert_eq!(
        evictions(&world),
        [("/b".to_owned(), EvictionReason::OwnerExited)],
        "an ordinary event"
    );
    assert_eq!(world.events.last().unwrap().1.revision, 4);
    assert_eq!(world.watched, [process(10), process(12)].into());
}

#[test]
fn an_unseen_endpoint_s_past_survives_a_restart() {
    let mut world = World::new();
    register(&mut world, REMOTE, "/a", "n");
    assert_eq!(world.events.len(), 1, "to be found alive is no event");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.restart();
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
}

#[test]
fn an_eviction_that_cannot_be_stored_is_tried_again() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.disk_is_full = true;
    world.kill(process(10));
    world.advance(5);
    assert_eq!(world.names(), ["/a"], "memory and disk stay the same");
    assert_eq!(evictions(&world), []);
    world.disk_is_full = false;
    world.advance(2);
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_process_that_cannot_be_watched_is_asked_for_at_each_look_and_before_a_refusal() {
    let mut world = World::new();
    world.unseen.insert(process(10));
    // Never found alive, so that its endpoint alone could not evict it.
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.set_endpoint(&address("/b", "n"), ProbeResult::Dead);
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 10), "/b", "n");
    assert_eq!(register(&mut world, local(1, 11), "/a", "m"), DiscoveryStatus::AlreadyExists);
    world.kill_unnoticed(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "m"), DiscoveryStatus::Ok);
    world.advance(60);
    assert_eq!(world.names(), ["/a"], "the other one went with the next look");
    assert_eq!(world.list(), [info("/a", "m")]);
}

#[test]
fn one_who_waits_is_told_when_nothing_can_be_stored() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    world.kill_unnoticed(process(10));
    world.disk_is_full = true;
    let reply = world.call(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    assert_eq!(reply.status, DiscoveryStatus::Error, "not ALREADY_EXISTS because of the dead");
    assert_eq!(reply.message, "Topic /a is not registered: the disk is full");
    world.disk_is_full = false;
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
}

#[test]
fn whoever_waits_when_the_daemon_ends_is_answered() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.delayed_probes = Some(Vec::new());
    world.kill(process(10));
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    world.deliver(vec![Input::ShuttingDown]);
    assert_eq!(world.replies[&number].status, DiscoveryStatus::AlreadyExists);
}

#[test]
fn only_so_many_wait_of_one_user() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.delayed_probes = Some(Vec::new());
    world.kill(process(10));
    let try_as = |world: &mut World, uid: u32| {
        let number = world.send(local(uid, 11), DiscoveryRequest::register(info("/a", "new")));
        !world.replies.contains_key(&number)
    };
    let waiting = (0..100).filter(|_| try_as(&mut world, 1)).count();
    assert_eq!(waiting, 64);
    assert!(try_as(&mut world, 2), "another user's may wait");
}

#[test]
fn a_look_for_what_was_taken_back_does_not_hit_what_has_its_number_next() {
    let mut world = World::new();
    world.delayed_probes = Some(Vec::new());
    world.disk_is_full = true;
    register(&mut world, REMOTE, "/a", "n");
    world.disk_is_full = false;
    let moved = cortex_proto::TopicInfo { address: "ipc:///moved".into(), ..info("/a", "n") };
    world.set_endpoint("ipc:///moved", ProbeResult::Unknown);
    world.call(REMOTE, DiscoveryRequest::register(moved));
    world.finish_probes();
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Unknown);
}
