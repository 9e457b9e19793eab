//! Owners, probes and restarts of the daemon: one test for each rule.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{PROBE_INTERVAL, REMOTE, World, info, local, process};
use cortex_daemon::peer::{EndpointListener, PeerIdentity, Process};
use cortex_daemon::registry::{EventKind, EvictionReason, Input, ProbeResult, UnknownReason};
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
fn all_topics_of_a_process_share_one_process_watch() {
    let mut world = World::new();
    for name in ["/a", "/b", "/c"] {
        register(&mut world, local(1, 10), name, "n");
    }
    // `World` asserts that no process is watched twice.
    assert_eq!(world.watched, [process(10)].into());
    world.call(local(1, 10), DiscoveryRequest::unregister("/a"));
    world.call(local(1, 10), DiscoveryRequest::unregister("/b"));
    assert_eq!(world.watched, [process(10)].into(), "until its last topic is gone");
    world.call(local(1, 10), DiscoveryRequest::unregister("/c"));
    assert!(world.watched.is_empty());
}

#[test]
fn topics_with_dead_endpoints_are_evicted_when_their_process_ends() {
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
fn a_running_publisher_is_never_evicted() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(3600);
    assert_eq!(
        world.names(),
        ["/a"],
        "the daemon does not judge the endpoint of a running process"
    );
}

#[test]
fn an_unknown_probe_result_evicts_a_dead_owner_s_topic_and_no_other() {
    for reason in [UnknownReason::Permission, UnknownReason::HostName, UnknownReason::Address] {
        let mut world = World::new();
        for (peer, name) in [(local(1, 10), "/a"), (REMOTE, "/b"), (local(1, 11), "/c")] {
            register(&mut world, peer, name, "n");
            world.set_endpoint(&address(name, "n"), ProbeResult::Unknown(reason));
        }
        world.kill(process(10));
        assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
        world.advance(600);
        assert_eq!(world.names(), ["/b", "/c"]);
    }
}

#[test]
fn an_orphaned_topic_is_probed_and_stays_while_its_endpoint_is_alive() {
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
fn an_orphaned_topic_stays_while_its_publisher_serves_it_silently() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.advance(1);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Silent);
    world.kill(process(10));
    world.advance(600);
    assert_eq!(world.names(), ["/a"], "the publisher is stopped in a debugger");
}

#[test]
fn an_orphaned_topic_goes_at_once_when_a_forked_child_holds_its_listener() {
    let mut world = World::new();
    let owner = EndpointListener::Process(process(10));
    world.listeners.insert(address("/a", "n"), owner);
    register(&mut world, local(1, 10), "/a", "n");
    world.advance(1);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Silent);
    // The kernel still names the process that called listen.
    world.kill(process(10));
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
}

#[test]
fn a_newcomer_at_the_endpoint_does_not_keep_a_dead_owner_s_topic() {
    for is_restarted in [false, true] {
        let mut world = World::new();
        world.listeners.insert(address("/a", "n"), EndpointListener::Process(process(10)));
        register(&mut world, local(1, 10), "/a", "n");
        world.advance(1);
        // Another process takes the path, and the owner is killed.
        world.listeners.insert(address("/a", "n"), EndpointListener::Process(process(11)));
        if is_restarted {
            world.kill_unnoticed(process(10));
            world.restart();
        } else {
            world.kill(process(10));
        }
        assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
        assert_eq!(register(&mut world, local(1, 11), "/a", "m"), DiscoveryStatus::Ok);
    }
}

#[test]
fn a_dead_owner_s_tcp_port_that_another_node_uses_does_not_keep_its_topic() {
    let mut world = World::new();
    let at = |name: &str, node: &str| cortex_proto::TopicInfo {
        address: "tcp://127.0.0.1:5555".into(),
        ..info(name, node)
    };
    world.listeners.insert(at("/a", "n").address, EndpointListener::Socket(7));
    world.call(local(1, 10), DiscoveryRequest::register(at("/a", "n")));
    world.advance(1);
    world.kill(process(10));
    assert_eq!(world.names(), ["/a"], "a child may serve the socket");
    world.listeners.insert(at("/a", "n").address, EndpointListener::Socket(8));
    world.call(local(1, 11), DiscoveryRequest::register(at("/b", "m")));
    assert_eq!(world.names(), ["/b"], "a registration at the address judges it again");
}

#[test]
fn a_script_that_registers_for_a_publisher_may_end_at_once() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.kill(process(10));
    world.advance(60);
    assert_eq!(world.names(), ["/a"], "the publisher is older than the registration");
}

#[test]
fn a_late_probe_result_does_not_affect_a_new_registration() {
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
fn a_late_exit_of_the_old_owner_does_not_affect_the_new_owner() {
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
fn unrequested_results_have_no_effect() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    let name = TopicName::new("/a").unwrap();
    for revision in 0..4 {
        let result = ProbeResult::Dead;
        world.deliver(vec![Input::EndpointProbed {
            name: name.clone(),
            revision,
            result,
            listener: None,
        }]);
    }
    world.deliver(vec![Input::ProcessChecked(process(10)), Input::ProcessUnseen(process(99))]);
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn a_process_that_ended_before_its_watch_counts_as_ended() {
    let mut world = World::new();
    world.kill_unnoticed(process(10));
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    assert_eq!(register(&mut world, local(1, 10), "/a", "n"), DiscoveryStatus::Ok);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    let again = Process { start_time: 12_345, ..process(10) };
    let peer = PeerIdentity { uid: Some(1), process: Some(again), is_local: true };
    register(&mut world, peer, "/b", "m");
    world.kill(process(10));
    assert_eq!(world.names(), ["/b"]);
}

#[test]
fn two_failed_probes_evict_an_unseen_owner_s_topic_that_was_once_alive() {
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
fn an_unseen_owner_s_topic_that_was_never_alive_stays() {
    let mut world = World::new();
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    register(&mut world, REMOTE, "/a", "n");
    world.advance(3600);
    assert_eq!(world.names(), ["/a"], "it may lie behind a firewall");
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Dead);
}

#[test]
fn an_owner_that_the_daemon_cannot_watch_is_unseen() {
    let mut world = World::new();
    world.unseen.insert(process(10));
    register(&mut world, local(1, 10), "/a", "n");
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Alive);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.advance(2 * PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
}

#[test]
fn the_time_between_probes_of_a_silent_endpoint_grows() {
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
fn another_node_gets_the_topic_of_a_process_that_has_just_ended() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    // The poll has not reported its exit yet.
    world.kill_unnoticed(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
    assert_eq!(world.list(), [info("/a", "new")]);
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
}

#[test]
fn another_node_is_refused_while_the_owner_runs() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    let reply = world.call(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    assert_eq!(reply.status, DiscoveryStatus::AlreadyExists);
    assert_eq!(reply.message, "Topic /a already registered by old");
}

#[test]
fn a_name_is_not_denied_for_a_dead_owner_whose_probe_does_not_end() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.delayed_probes = Some(Vec::new());
    world.kill(process(10));
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    world.advance_ms(299);
    assert_eq!(world.replies.get(&number), None, "it waits");
    world.advance_ms(1);
    let reply = world.replies.remove(&number).unwrap();
    assert_eq!(reply.status, DiscoveryStatus::Ok);
}

#[test]
fn a_running_owner_that_closed_its_socket_loses_the_name_to_another_node() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.advance(1);
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::AlreadyExists);
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    let before = world.now.instant;
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
    assert!(world.now.instant - before <= Duration::from_millis(300));
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
}

#[test]
fn the_looks_of_other_nodes_do_not_evict_a_topic() {
    let mut world = World::new();
    register(&mut world, REMOTE, "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Silent);
    for _ in 0..10 {
        let status = register(&mut world, local(1, 11), "/a", "m");
        assert_eq!(status, DiscoveryStatus::AlreadyExists);
    }
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    // The first of two probes finds it dead, then the endpoint is back.
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "m")));
    world.set_endpoint(&address("/a", "n"), ProbeResult::Alive);
    world.advance_ms(150);
    assert_eq!(world.replies[&number].status, DiscoveryStatus::AlreadyExists);
    assert_eq!(evictions(&world), []);
}

#[test]
fn an_unreachable_host_s_name_is_free_and_its_topic_is_listed_for_a_day() {
    let mut world = World::new();
    register(&mut world, REMOTE, "/a", "n");
    register(&mut world, REMOTE, "/b", "n");
    for name in ["/a", "/b"] {
        world.set_endpoint(&address(name, "n"), ProbeResult::Unreachable);
    }
    world.advance(20);
    assert_eq!(register(&mut world, local(1, 11), "/a", "m"), DiscoveryStatus::AlreadyExists);
    world.advance(20);
    assert_eq!(endpoint(&mut world, "/b"), EndpointState::Unreachable);
    assert_eq!(register(&mut world, local(1, 11), "/a", "m"), DiscoveryStatus::Ok);
    world.set_endpoint(&address("/b", "n"), ProbeResult::Alive);
    world.advance(10);
    assert_eq!(endpoint(&mut world, "/b"), EndpointState::Alive, "as soon as it answers");
    world.set_endpoint(&address("/b", "n"), ProbeResult::Unreachable);
    world.advance(23 * 3600);
    assert_eq!(world.names(), ["/b", "/a"]);
    world.advance(2 * 3600);
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn a_superseded_process_cannot_unregister_its_node_s_topic() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 11), "/a", "n");
    let unregister = || DiscoveryRequest::unregister("/a");
    let reply = world.call(local(1, 10), unregister());
    assert_eq!((reply.status, &*reply.message), (DiscoveryStatus::Ok, "Unregistered topic: /a"));
    assert_eq!(world.names(), ["/a"], "the old process of a rolling restart ends last");
    world.call(local(1, 12), unregister());
    assert_eq!(world.names(), Vec::<String>::new(), "a third process of the user may");
}

#[test]
fn a_superseded_process_that_serves_the_endpoint_can_unregister_it() {
    let mut world = World::new();
    world.listeners.insert(address("/a", "n"), EndpointListener::Process(process(10)));
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 11), "/a", "n");
    world.advance(1);
    world.call(local(1, 10), DiscoveryRequest::unregister("/a"));
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_socket_that_was_closed_while_no_daemon_ran_costs_its_topic_after_the_restart() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 10), "/b", "n");
    world.advance(1);
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.restart();
    world.advance_ms(100);
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
    world.advance(60);
    assert_eq!(world.names(), ["/b"]);
}

#[test]
fn the_first_of_two_pending_registers_gets_a_dead_owner_s_topic() {
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
fn an_orphaned_topic_is_probed_before_another_node_is_refused() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.kill(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::AlreadyExists);
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
}

#[test]
fn another_node_is_refused_as_soon_as_a_probe_finds_the_publisher_of_a_dead_owner() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.advance_ms(20);
    world.kill(process(10));
    // The world gives each probe its result at once, so no time passes.
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "other")));
    assert_eq!(world.replies[&number].status, DiscoveryStatus::AlreadyExists);
}

#[test]
fn an_unseen_owner_keeps_its_name_when_no_probe_has_ended() {
    let mut world = World::new();
    world.delayed_probes = Some(Vec::new());
    register(&mut world, REMOTE, "/a", "n");
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "other")));
    assert_eq!(world.replies.get(&number), None, "it waits");
    assert_eq!(world.registry.next_answer(), Some(world.now.instant + Duration::from_millis(300)));
    world.advance_ms(300);
    assert_eq!(world.replies.remove(&number).unwrap().status, DiscoveryStatus::AlreadyExists);
    assert_eq!((evictions(&world), world.names()), (vec![], vec!["/a".to_owned()]));
}

#[test]
fn another_user_is_refused_only_while_the_owner_runs() {
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
fn a_restarted_node_keeps_its_topics_and_their_order() {
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
fn a_daemon_restart_keeps_running_owners_topics_and_evicts_dead_ones() {
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
fn a_restarted_daemon_remembers_that_an_endpoint_was_alive() {
    let mut world = World::new();
    register(&mut world, REMOTE, "/a", "n");
    assert_eq!(world.events.len(), 1, "a probe that finds it alive is no event");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.restart();
    world.advance(PROBE_INTERVAL.as_secs());
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
}

#[test]
fn an_eviction_that_cannot_be_stored_is_retried() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.disk_is_full = true;
    world.kill(process(10));
    assert_eq!(world.names(), Vec::<String>::new(), "gone at once, its event follows");
    let lookup = DiscoveryRequest::lookup("/a");
    assert_eq!(world.call(REMOTE, lookup).status, DiscoveryStatus::NotFound);
    world.advance(5);
    assert_eq!(evictions(&world), []);
    world.disk_is_full = false;
    world.advance(2);
    assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn an_unseen_owner_is_checked_at_each_probe_and_before_a_refusal() {
    let mut world = World::new();
    world.unseen.insert(process(10));
    // No probe has found the endpoint alive, so a dead endpoint alone evicts no topic.
    world.set_endpoint(&address("/a", "n"), ProbeResult::Dead);
    world.set_endpoint(&address("/b", "n"), ProbeResult::Dead);
    register(&mut world, local(1, 10), "/a", "n");
    register(&mut world, local(1, 10), "/b", "n");
    world.kill_unnoticed(process(10));
    assert_eq!(register(&mut world, local(1, 11), "/a", "m"), DiscoveryStatus::Ok);
    world.advance(60);
    assert_eq!(world.list(), [info("/a", "m")], "the next probe evicted the other one");
}

#[test]
fn a_pending_register_gets_an_error_when_the_eviction_cannot_be_stored() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "old");
    world.set_endpoint(&address("/a", "old"), ProbeResult::Dead);
    world.kill_unnoticed(process(10));
    world.disk_is_full = true;
    let reply = world.call(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    assert_eq!(reply.status, DiscoveryStatus::Error, "not ALREADY_EXISTS: the owner is dead");
    assert_eq!(reply.message, "Topic /a is not registered: the disk is full");
    world.disk_is_full = false;
    assert_eq!(register(&mut world, local(1, 11), "/a", "new"), DiscoveryStatus::Ok);
}

#[test]
fn a_pending_register_is_answered_when_the_daemon_shuts_down() {
    for (owner, status) in
        [(local(1, 10), DiscoveryStatus::Ok), (REMOTE, DiscoveryStatus::AlreadyExists)]
    {
        let mut world = World::new();
        register(&mut world, owner, "/a", "old");
        world.delayed_probes = Some(Vec::new());
        world.kill(process(10));
        let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
        assert_eq!(world.replies.get(&number), None, "it waits");
        world.deliver(vec![Input::ShuttingDown]);
        assert_eq!(world.replies[&number].status, status, "the name of a dead owner is free");
    }
}

#[test]
fn each_user_has_a_limited_number_of_pending_registers() {
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
    assert!(try_as(&mut world, 2), "another user has its own limit");
}

#[test]
fn a_probe_of_a_rolled_back_registration_does_not_affect_the_next_one() {
    let mut world = World::new();
    world.delayed_probes = Some(Vec::new());
    world.disk_is_full = true;
    register(&mut world, REMOTE, "/a", "n");
    world.disk_is_full = false;
    let moved = cortex_proto::TopicInfo { address: "ipc:///moved".into(), ..info("/a", "n") };
    world.set_endpoint("ipc:///moved", ProbeResult::Unknown(UnknownReason::Failure));
    world.call(REMOTE, DiscoveryRequest::register(moved));
    world.finish_probes();
    assert_eq!(endpoint(&mut world, "/a"), EndpointState::Unknown);
}

fn at_port(name: &str, node: &str) -> cortex_proto::TopicInfo {
    cortex_proto::TopicInfo { address: "tcp://127.0.0.1:5555".into(), ..info(name, node) }
}

/// A process that registers over loopback: the daemon does not see it.
const LOOPBACK: PeerIdentity = PeerIdentity { is_local: true, ..REMOTE };

#[test]
fn an_unseen_owner_s_topic_goes_when_another_node_registers_its_port_with_another_socket() {
    for newcomer in [local(1, 11), LOOPBACK] {
        let mut world = World::new();
        world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(7));
        world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "n")));
        world.advance(1);
        world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(8));
        world.advance(600);
        assert_eq!(world.names(), ["/a"], "its node may have opened another socket");
        world.call(newcomer, DiscoveryRequest::register(at_port("/b", "m")));
        assert_eq!(world.names(), ["/b"]);
        assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::EndpointDead)]);
    }
}

#[test]
fn an_unseen_owner_keeps_all_topics_at_its_endpoint() {
    let mut world = World::new();
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(7));
    for (name, node) in [("/a", "n"), ("/b", "n"), ("/c", "another node of the process")] {
        world.call(LOOPBACK, DiscoveryRequest::register(at_port(name, node)));
        world.advance(7);
    }
    assert_eq!(world.names(), ["/a", "/b", "/c"], "the socket is the same");
    // The node opens another socket, and registers one topic more.
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(8));
    world.call(LOOPBACK, DiscoveryRequest::unregister("/c"));
    world.call(LOOPBACK, DiscoveryRequest::register(at_port("/d", "n")));
    world.advance(60);
    assert_eq!(world.names(), ["/a", "/b", "/d"], "no other node has registered the endpoint");
}

#[test]
fn an_unseen_owner_that_registers_again_may_have_a_new_socket() {
    let mut world = World::new();
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(7));
    world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "n")));
    world.advance(7);
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(8));
    let again = world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "n")));
    assert_eq!(again.status, DiscoveryStatus::Ok);
    // A helper of another node registers a topic for the same publisher.
    world.call(LOOPBACK, DiscoveryRequest::register(at_port("/b", "m")));
    world.advance(60);
    assert_eq!(world.names(), ["/a", "/b"]);
}

#[test]
fn a_registration_from_another_network_namespace_does_not_judge_a_local_endpoint() {
    let mut world = World::new();
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(7));
    world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "n")));
    world.advance(1);
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(8));
    world.call(REMOTE, DiscoveryRequest::register(at_port("/b", "m")));
    world.advance(60);
    assert_eq!(world.names(), ["/a", "/b"]);
}

#[test]
fn a_newcomer_gets_the_name_of_an_unseen_owner_whose_port_it_has() {
    let mut world = World::new();
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(7));
    world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "n")));
    world.advance(1);
    let mut claim = || world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "m"))).status;
    assert_eq!(claim(), DiscoveryStatus::AlreadyExists, "the owner's socket still listens");
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(8));
    let elsewhere = world.call(LOOPBACK, DiscoveryRequest::register(info("/a", "m")));
    assert_eq!(elsewhere.status, DiscoveryStatus::AlreadyExists, "it names another endpoint");
    let claim = world.call(LOOPBACK, DiscoveryRequest::register(at_port("/a", "m")));
    assert_eq!(claim.status, DiscoveryStatus::Ok);
}

#[test]
fn a_newcomer_that_comes_while_the_daemon_is_down_does_not_keep_a_dead_owner_s_topic() {
    let newcomer = Process { pid: 77, start_time: 1_000_100 };
    for listener in [EndpointListener::Process(newcomer), EndpointListener::Socket(7)] {
        let mut world = World::new();
        world.listeners.insert(at_port("/a", "n").address, listener);
        world.call(local(1, 10), DiscoveryRequest::register(at_port("/a", "n")));
        world.kill_unnoticed(process(10));
        world.now.boot_ticks += 500;
        world.now.unix_ms += 5000;
        world.restart();
        assert_eq!(evictions(&world), [("/a".to_owned(), EvictionReason::OwnerExited)]);
    }
}

#[test]
fn a_script_s_registration_for_a_stopped_tcp_publisher_outlives_a_restart() {
    let mut world = World::new();
    world.listeners.insert(at_port("/a", "n").address, EndpointListener::Socket(7));
    world.set_endpoint(&at_port("/a", "n").address, ProbeResult::Silent);
    world.call(local(1, 10), DiscoveryRequest::register(at_port("/a", "n")));
    world.kill(process(10));
    world.restart();
    world.advance(1);
    assert_eq!(world.names(), ["/a"], "the same socket listens");
}

#[test]
fn a_script_s_registration_for_a_publisher_outlives_a_restart_without_a_record() {
    let mut world = World::new();
    register(&mut world, local(1, 10), "/a", "n");
    world.kill_unnoticed(process(10));
    world.restart();
    world.advance(60);
    assert_eq!(world.names(), ["/a"], "the publisher is older than the registration");
}

#[test]
fn an_eviction_that_cannot_be_stored_is_tried_once_a_second() {
    let mut world = World::new();
    let topic = info("/a", "n");
    world.set_endpoint(&topic.address, ProbeResult::Dead);
    world.call(local(1, 10), DiscoveryRequest::register(topic));
    world.disk_is_full = true;
    world.kill(process(10));
    assert_eq!(world.registry.counters().not_stored, 1);
    for second in 1..4 {
        world.advance_ms(900);
        assert_eq!(world.registry.counters().not_stored, second, "after 0.9 s");
        world.advance_ms(100);
        assert_eq!(world.registry.counters().not_stored, second + 1, "after 1 s");
    }
    world.disk_is_full = false;
    world.advance_ms(1000);
    assert_eq!(world.stored.len(), 0);
}
