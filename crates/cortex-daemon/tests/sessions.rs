//! What keeps a topic registered, which users may change it, and what the extensions return.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{DAEMON_UID, REMOTE, World, info, local, process, settings};
use cortex_daemon::peer::PeerIdentity;
use cortex_daemon::registry::{
    EventKind, EvictionReason, Input, ProbeResult, Snapshot, WaitingRequests,
};
use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, Hold, RequestExt,
    RequestedCommand, ResponseExt, Session,
};

const ME: u32 = 1000;
const SOMEBODY: u32 = 1001;

fn session(id: &str, lease_ms: Option<u64>) -> Session {
    Session { id: id.into(), lease_ms }
}

fn in_session(name: &str, session: Session) -> DiscoveryRequest {
    let hold = Some(Hold::Session);
    let ext = RequestExt { hold, session: Some(session), ..RequestExt::default() };
    DiscoveryRequest::register(info(name, "n")).with_ext(ext)
}

fn with_hold(name: &str, hold: Hold) -> DiscoveryRequest {
    let ext = RequestExt { hold: Some(hold), ..RequestExt::default() };
    DiscoveryRequest::register(info(name, "n")).with_ext(ext)
}

fn ext(response: &DiscoveryResponse) -> &ResponseExt {
    response.ext.as_ref().unwrap()
}

fn renew(world: &mut World, peer: PeerIdentity, id: &str) -> (Option<bool>, Option<u64>) {
    let reply = world.call(peer, DiscoveryRequest::renew(session(id, None)));
    assert_eq!(reply.status, DiscoveryStatus::Ok);
    (ext(&reply).known, ext(&reply).lease_ms)
}

#[test]
fn topics_of_a_session_are_evicted_when_its_lease_expires() {
    let mut world = World::new();
    let reply = world.call(REMOTE, in_session("/a", session("s", Some(3000))));
    assert_eq!((ext(&reply).revision, ext(&reply).lease_ms), (Some(1), Some(3000)));
    world.call(REMOTE, in_session("/b", session("s", Some(3000))));
    world.call(REMOTE, in_session("/c", session("other", None)));
    for _ in 0..10 {
        world.advance(2);
        assert_eq!(renew(&mut world, REMOTE, "s"), (Some(true), Some(3000)));
    }
    assert_eq!(world.names(), ["/a", "/b"], "the other session has expired after 10 s");
    world.advance(3);
    assert_eq!(world.names(), Vec::<String>::new());
    let last = world.changes.last().unwrap();
    assert_eq!(last.kind, EventKind::Evicted(EvictionReason::LeaseExpired));
    assert_eq!(renew(&mut world, REMOTE, "s"), (Some(false), Some(10_000)));
}

#[test]
fn a_session_outlives_its_process() {
    let mut world = World::new();
    world.call(local(ME, 10), in_session("/a", session("s", None)));
    world.set_endpoint(&info("/a", "n").address, ProbeResult::Dead);
    assert!(world.watched.is_empty());
    world.kill_unnoticed(process(10));
    world.advance(9);
    assert_eq!(renew(&mut world, local(ME, 11), "s").0, Some(true));
    world.advance(9);
    assert_eq!(world.names(), ["/a"]);
}

#[test]
fn every_registration_renews_its_session_even_without_a_change() {
    let mut world = World::new();
    for _ in 0..5 {
        world.call(local(ME, 10), in_session("/a", session("s", None)));
        world.advance(9);
    }
    assert_eq!(world.names(), ["/a"]);
    assert_eq!(world.events.len(), 1, "a repeated registration is no change");
}

#[test]
fn a_session_belongs_to_its_user() {
    let mut world = World::new();
    world.call(local(ME, 10), in_session("/a", session("s", None)));
    assert_eq!(renew(&mut world, local(SOMEBODY, 11), "s").0, Some(false));
    assert_eq!(renew(&mut world, REMOTE, "s").0, Some(false));
    assert_eq!(renew(&mut world, local(ME, 12), "s").0, Some(true));
}

#[test]
fn a_lease_has_bounds() {
    let mut world = World::new();
    for (requested, given) in [
        (None, 10_000),
        (Some(0), 500),
        (Some(499), 500),
        (Some(60_000), 60_000),
        (Some(u64::MAX), 86_400_000),
    ] {
        let reply = world.call(REMOTE, in_session("/a", session("s", requested)));
        assert_eq!(ext(&reply).lease_ms, Some(given), "{requested:?}");
    }
}

#[test]
fn a_time_gap_gives_sessions_a_full_lease() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", None)));
    world.now.instant += Duration::from_secs(3600);
    world.deliver(vec![Input::TimeGap]);
    world.advance(9);
    assert_eq!(world.names(), ["/a"]);
    world.advance(1);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_restart_gives_sessions_a_full_lease() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", None)));
    world.advance(9);
    world.restart();
    world.advance(9);
    assert_eq!(renew(&mut world, REMOTE, "s").0, Some(true));
}

#[test]
fn an_expiry_that_cannot_be_stored_is_retried() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", Some(1000))));
    world.disk_is_full = true;
    world.advance(30);
    assert_eq!(world.names(), Vec::<String>::new(), "gone at once");
    assert_eq!(world.events.len(), 1, "its event follows");
    assert_eq!(renew(&mut world, REMOTE, "s").0, Some(false), "its client registers again");
    world.disk_is_full = false;
    world.advance(3);
    assert_eq!((world.names(), world.events.len()), (Vec::new(), 2));
}

#[test]
fn a_static_topic_stays_after_its_process_and_a_restart() {
    let mut world = World::new();
    world.call(local(ME, 10), with_hold("/a", Hold::Static));
    world.set_endpoint(&info("/a", "n").address, ProbeResult::Dead);
    world.kill_unnoticed(process(10));
    world.advance(3600);
    world.restart();
    assert_eq!(world.names(), ["/a"]);
    let reply = world.call(local(ME, 11), DiscoveryRequest::unregister("/a"));
    assert_eq!(reply.status, DiscoveryStatus::Ok);
}

#[test]
fn a_new_hold_is_a_change() {
    let mut world = World::new();
    world.call(local(ME, 10), with_hold("/a", Hold::Static));
    assert!(world.watched.is_empty());
    world.call(local(ME, 10), with_hold("/a", Hold::Process));
    assert_eq!(world.watched, [process(10)].into());
    world.call(local(ME, 10), in_session("/a", session("s", None)));
    assert!(world.watched.is_empty());
    assert_eq!(world.events.len(), 3);
}

#[test]
fn invalid_holds_are_refused_and_change_nothing() {
    let mut world = World::new();
    let both = RequestExt {
        hold: Some(Hold::Static),
        session: Some(session("s", None)),
        ..RequestExt::default()
    };
    let requests = [
        with_hold("/a", Hold::Session),
        with_hold("/a", Hold::Other("forever".into())),
        DiscoveryRequest::register(info("/a", "n")).with_ext(both),
        in_session("/a", session("", None)),
        in_session("/a", session(&"s".repeat(65), None)),
    ];
    for request in requests {
        let reply = world.call(local(ME, 10), request);
        assert_eq!(reply.status, DiscoveryStatus::Error);
        assert!(reply.message.starts_with("Topic /a is not registered: ext."), "{}", reply.message);
        assert_eq!(reply.ext, Some(ResponseExt::default()), "an ERROR has an ext, too");
    }
    assert_eq!(world.events.len(), 0);
    for request in [
        DiscoveryRequest::renew(session(&"s".repeat(65), None)),
        DiscoveryRequest { ext: None, ..DiscoveryRequest::renew(session("s", None)) },
    ] {
        let reply = world.call(local(ME, 10), request);
        assert_eq!((reply.status, reply.ext.is_some()), (DiscoveryStatus::Error, true));
    }
}

#[test]
fn only_its_user_root_and_the_daemon_s_user_may_unregister_a_topic() {
    for (uid, may) in [(ME, true), (0, true), (DAEMON_UID, true), (SOMEBODY, false)] {
        let mut world = World::new();
        world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
        let reply = world.call(local(uid, 11), DiscoveryRequest::unregister("/a"));
        assert_eq!(reply.status == DiscoveryStatus::Ok, may, "user {uid}");
        assert_eq!(world.names().is_empty(), may);
        if !may {
            let message =
                "Topic /a is not unregistered: it belongs to user 1000, and you are user 1001";
            assert_eq!((reply.status, &*reply.message), (DiscoveryStatus::Error, message));
            let refusal = &world.refusals[0];
            assert_eq!((refusal.peer.uid, &*refusal.message), (Some(SOMEBODY), message));
            assert_eq!(world.registry.counters().no_access, 1);
        }
    }
}

#[test]
fn only_unknown_peers_may_change_unknown_peers_topics() {
    let mut world = World::new();
    world.call(REMOTE, DiscoveryRequest::register(info("/a", "n")));
    let reply = world.call(local(SOMEBODY, 11), DiscoveryRequest::unregister("/a"));
    assert_eq!(reply.status, DiscoveryStatus::Error);
    let reply = world.call(REMOTE, DiscoveryRequest::unregister("/a"));
    assert_eq!(reply.status, DiscoveryStatus::Ok);

    world.call(local(ME, 10), DiscoveryRequest::register(info("/b", "n")));
    let reply = world.call(REMOTE, DiscoveryRequest::unregister("/b"));
    assert_eq!(reply.status, DiscoveryStatus::Error);
    assert!(reply.message.contains("you are an unknown user"));
}

#[test]
fn already_exists_comes_before_no_access() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    let reply = world.call(local(SOMEBODY, 11), DiscoveryRequest::register(info("/a", "other")));
    assert_eq!(reply.status, DiscoveryStatus::AlreadyExists);
    assert_eq!(reply.ext, None, "a legacy request gets a legacy reply");
}

#[test]
fn only_root_and_the_daemon_s_user_may_shut_down_the_daemon() {
    for (peer, may) in
        [(local(0, 1), true), (local(DAEMON_UID, 1), true), (local(ME, 1), false), (REMOTE, false)]
    {
        let mut world = World::new();
        let reply = world.call(peer, DiscoveryRequest::shutdown());
        assert_eq!((reply.status == DiscoveryStatus::Ok, world.stopped), (may, may), "{peer:?}");
        assert_eq!(world.refusals.is_empty(), may);
    }
    let mut open = settings();
    open.access.allow_remote_shutdown = true;
    let mut world = World::with(open, Snapshot::default());
    assert_eq!(
        world.call(local(ME, 1), DiscoveryRequest::shutdown()).status,
        DiscoveryStatus::Error
    );
    assert_eq!(world.call(REMOTE, DiscoveryRequest::shutdown()).message, "Shutting down");
}

#[test]
fn an_unregister_can_have_conditions() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    let guarded = |publisher_node: Option<&str>, revision| {
        let publisher_node = publisher_node.map(str::to_owned);
        let ext = RequestExt { publisher_node, revision, ..RequestExt::default() };
        DiscoveryRequest::unregister("/a").with_ext(ext)
    };
    for (request, problem) in [
        (guarded(Some("m"), None), "it is registered by n, not by m"),
        (guarded(None, Some(7)), "it is at revision 1, not at 7"),
        (guarded(Some("n"), Some(0)), "it is at revision 1, not at 0"),
    ] {
        let reply = world.call(local(ME, 10), request);
        assert_eq!(reply.message, format!("Topic /a is not unregistered: {problem}"));
        assert_eq!(reply.status, DiscoveryStatus::Error);
    }
    let reply = world.call(local(ME, 10), guarded(Some("n"), Some(1)));
    assert_eq!(reply.status, DiscoveryStatus::Ok);
}

#[test]
fn a_ping_with_an_extension_describes_the_daemon() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    world.advance(3);
    let reply = world.call(REMOTE, DiscoveryRequest::ping().with_ext(RequestExt::default()));
    let expected = ResponseExt {
        level: Some(1),
        server: Some("cortex-discovery/test".into()),
        epoch: Some(7),
        revision: Some(1),
        pid: Some(42),
        uptime_ms: Some(3000),
        topics: Some(1),
        cancel: Some(true),
        ..ResponseExt::default()
    };
    assert_eq!((&*reply.message, reply.ext), ("pong", Some(expected)));
}

#[test]
fn entries_contain_the_owner_the_hold_and_the_age() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    world.advance(2);
    world.call(REMOTE, with_hold("/b", Hold::Static));
    world.advance(3);
    let list = world.call(REMOTE, DiscoveryRequest::list().with_ext(RequestExt::default()));
    let entries = ext(&list).entries.clone().unwrap();
    assert_eq!(list.topics.len(), entries.len());
    let facts = |at: usize| {
        let entry = &entries[at];
        (entry.uid, entry.pid, entry.hold.to_string(), entry.revision, entry.age_ms)
    };
    assert_eq!(facts(0), (Some(1000), Some(10), "process".into(), 1, 5000));
    assert_eq!(facts(1), (None, None, "static".into(), 2, 3000));
    let one = world.call(REMOTE, DiscoveryRequest::lookup("/b").with_ext(RequestExt::default()));
    assert_eq!(ext(&one).entry.as_ref(), Some(&entries[1]));
    let none = world.call(REMOTE, DiscoveryRequest::lookup("/x").with_ext(RequestExt::default()));
    assert_eq!((none.status, none.ext), (DiscoveryStatus::NotFound, Some(ResponseExt::default())));
}

#[test]
fn the_reply_to_an_extension_command_has_an_extension() {
    let mut world = World::new();
    for number in [63, 64, 65, 95, 96] {
        let command = RequestedCommand::Unknown(number);
        let reply = world.call(REMOTE, DiscoveryRequest { command, ..DiscoveryRequest::ping() });
        assert_eq!(reply.status, DiscoveryStatus::Error);
        assert_eq!(reply.ext.is_some(), (64..96).contains(&number), "{number}");
    }
    assert_eq!(RequestedCommand::from_number(66), DiscoveryCommand::Renew.into());
}

#[test]
fn a_batch_that_cannot_be_stored_changes_nothing_and_its_reads_are_answered() {
    let mut world = World::new();
    world.call(local(ME, 10), DiscoveryRequest::register(info("/a", "n")));
    world.disk_is_full = true;
    let moved = cortex_proto::TopicInfo { address: "ipc:///moved".into(), ..info("/a", "n") };
    let replies = world.call_batch(vec![
        (local(ME, 10), DiscoveryRequest::register(moved)),
        (local(ME, 10), DiscoveryRequest::lookup("/a")),
        (local(ME, 10), DiscoveryRequest::register(info("/b", "n"))),
        (local(ME, 10), DiscoveryRequest::lookup("/b")),
        (local(ME, 10), DiscoveryRequest::unregister("/a")),
        (local(ME, 10), DiscoveryRequest::register(info("/a", "n"))),
        (local(ME, 10), DiscoveryRequest::unregister("/nope")),
        (local(ME, 10), DiscoveryRequest::list()),
        (local(ME, 10), DiscoveryRequest::ping()),
    ]);
    let (ok, error, not_found) =
        (DiscoveryStatus::Ok, DiscoveryStatus::Error, DiscoveryStatus::NotFound);
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [error, ok, error, not_found, error, ok, not_found, ok, ok]);
    assert_eq!(replies[0].message, "Topic /a is not registered: the disk is full");
    assert_eq!(replies[1].topic_info, Some(info("/a", "n")));
    assert_eq!(replies[4].message, "Topic /a is not unregistered: the disk is full");
    assert_eq!(replies[7].topics, [info("/a", "n")]);
    assert_eq!(world.watched, [process(10)].into());

    world.disk_is_full = false;
    let reply = world.call(local(ME, 10), DiscoveryRequest::register(info("/b", "n")));
    assert_eq!(reply.status, ok);
    assert_eq!(world.events.last().unwrap().1.revision, 2, "revisions have no gap");
}

#[test]
fn a_session_lives_for_one_more_lease_at_most_while_its_user_s_requests_wait() {
    let mut world = World::new();
    for (uid, name) in [(1, "/a"), (2, "/b")] {
        world.call(local(uid, 10), in_session(name, session("s", Some(500))));
    }
    world.waiting.add(Some(1), world.now.instant);
    world.advance_ms(500);
    assert_eq!(world.names(), ["/a"], "a RENEW of its user may wait, of the other none");
    world.advance_ms(499);
    assert_eq!(world.names(), ["/a"]);
    // A peer cannot keep a session for ever by sending without end.
    world.advance_ms(100);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_renewal_that_has_waited_gives_a_full_lease() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", Some(500))));
    world.waiting.add(None, world.now.instant);
    world.advance_ms(900);
    assert_eq!(renew(&mut world, REMOTE, "s"), (Some(true), Some(500)));
    world.waiting = WaitingRequests::default();
    world.advance_ms(499);
    assert_eq!(world.names(), ["/a"]);
    world.advance_ms(1);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_session_ends_soon_after_its_user_s_requests_were_dispatched() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", Some(10_000))));
    world.waiting.add_any_user(world.now.instant);
    world.advance_ms(10_000);
    assert_eq!(world.names(), ["/a"]);
    let next = world.registry.next_check().unwrap();
    assert_eq!(next, world.now.instant + Duration::from_millis(100), "the daemon does not spin");
    world.waiting = WaitingRequests::default();
    world.advance_ms(100);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn requests_that_came_after_the_end_of_the_lease_do_not_extend_it() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", Some(500))));
    world.waiting.add(None, world.now.instant + Duration::from_millis(501));
    world.advance_ms(600);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn a_session_has_the_longest_lease_of_its_topics_in_any_order_and_after_a_restart() {
    for leases in [[60_000, 500], [500, 60_000]] {
        let mut world = World::new();
        for (name, lease) in ["/a", "/b"].into_iter().zip(leases) {
            world.call(REMOTE, in_session(name, session("s", Some(lease))));
        }
        assert_eq!(renew(&mut world, REMOTE, "s"), (Some(true), Some(60_000)));
        world.restart();
        assert_eq!(renew(&mut world, REMOTE, "s"), (Some(true), Some(60_000)));
        world.advance(50);
        assert_eq!(world.names(), ["/a", "/b"]);
    }
}

#[test]
fn a_registration_that_cannot_be_stored_does_not_change_its_session_s_lease() {
    let mut world = World::new();
    world.call(REMOTE, in_session("/a", session("s", Some(60_000))));
    world.disk_is_full = true;
    for lease in [500, 3_600_000] {
        let reply = world.call(REMOTE, in_session("/b", session("s", Some(lease))));
        assert_eq!(reply.status, DiscoveryStatus::Error);
    }
    world.disk_is_full = false;
    assert_eq!(world.registry.next_check(), Some(world.now.instant + Duration::from_secs(60)));
}
