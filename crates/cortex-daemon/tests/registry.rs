//! The registry's legacy requests, and their results compared with a naive model: a `Vec` in the
//! order of first registration.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{REMOTE, World, info, local, settings};
use cortex_daemon::registry::{EventKind, Input, Limits, PeerRequest, Snapshot, UnreadableRequest};
use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestedCommand,
    ResponseExt, TopicInfo,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// One of a topic's text fields.
type Field = fn(&mut TopicInfo) -> &mut String;

fn reply(world: &mut World, request: DiscoveryRequest) -> DiscoveryResponse {
    world.call(REMOTE, request)
}

/// Sends a request and returns its reply, and the change that it made.
fn call(
    world: &mut World,
    request: DiscoveryRequest,
) -> (DiscoveryResponse, Option<(EventKind, TopicInfo)>) {
    world.changes.clear();
    let answer = reply(world, request);
    let mut changes = world.changes.drain(..).map(|change| (change.kind, (*change.info).clone()));
    let change = changes.next();
    assert_eq!(changes.next(), None, "one request, at most one change");
    (answer, change)
}

fn with_limits(limits: Limits) -> World {
    World::with(common::Settings { limits, ..settings() }, Snapshot::default())
}

fn response(status: DiscoveryStatus, message: &str) -> DiscoveryResponse {
    DiscoveryResponse::new(status, message)
}

#[test]
fn the_daemon_answers_shutdown_before_it_stops() {
    let mut world = World::new();
    let answer = world.call(local(0, 1), DiscoveryRequest::shutdown());
    assert_eq!(answer, response(DiscoveryStatus::Ok, "Shutting down"));
    assert!(world.stopped && world.changes.is_empty());
}

#[test]
fn the_error_for_an_unknown_command_names_its_number() {
    let command = RequestedCommand::Unknown(-7);
    let request = DiscoveryRequest { command, ..DiscoveryRequest::ping() };
    let message = "Failed to parse request: -7 is not a known command";
    let expected = response(DiscoveryStatus::Error, message);
    assert_eq!(reply(&mut World::new(), request), expected);
}

#[test]
fn an_unreadable_request_gets_an_error_reply() {
    for asks_for_ext in [false, true] {
        let mut world = World::new();
        let unreadable = UnreadableRequest { problem: "it is nonsense".into(), asks_for_ext };
        let reply_to = common::reply_to(9);
        let request =
            PeerRequest { reply_to, peer: REMOTE, is_req: false, request: Err(unreadable) };
        world.deliver(vec![Input::Request(request)]);
        let message = "Failed to parse request: it is nonsense";
        let ext = asks_for_ext.then(ResponseExt::default);
        let expected = DiscoveryResponse { ext, ..response(DiscoveryStatus::Error, message) };
        assert_eq!(world.replies[&9], expected);
        assert_eq!(world.registry.counters().unreadable, 1);
    }
}

#[test]
fn unregister_takes_the_name_from_either_field() {
    for topic_name in [None, Some(String::new())] {
        let mut world = World::new();
        reply(&mut world, DiscoveryRequest::register(info("/x", "a")));
        let request = DiscoveryRequest {
            command: DiscoveryCommand::UnregisterTopic.into(),
            topic_name,
            topic_info: Some(info("/x", "someone else")),
            ext: None,
        };
        let (answer, change) = call(&mut world, request);
        assert_eq!(answer, response(DiscoveryStatus::Ok, "Unregistered topic: /x"));
        assert_eq!(change, Some((EventKind::Unregistered, info("/x", "a"))));
    }
    // With both fields, `topic_name` counts.
    let mut world = World::new();
    let request = DiscoveryRequest {
        topic_info: Some(info("/x", "a")),
        ..DiscoveryRequest::unregister("/y")
    };
    let expected = response(DiscoveryStatus::NotFound, "Topic /y not found");
    assert_eq!(reply(&mut world, request), expected);
}

#[test]
fn a_name_too_long_to_be_registered_is_not_found() {
    let name = "n".repeat(5000);
    let expected = response(DiscoveryStatus::NotFound, &format!("Topic {name} not found"));
    let mut world = World::new();
    assert_eq!(reply(&mut world, DiscoveryRequest::lookup(&*name)), expected);
    assert_eq!(reply(&mut world, DiscoveryRequest::unregister(name)), expected);
}

#[test]
fn a_register_with_a_field_over_the_limit_changes_nothing() {
    let mut world = World::new();
    reply(&mut world, DiscoveryRequest::register(info("/x", "a")));
    let edits: [(&str, Field); 3] = [
        ("address", |info| &mut info.address),
        ("message_type", |info| &mut info.message_type),
        ("publisher_node", |info| &mut info.publisher_node),
    ];
    for (field, edit) in edits {
        let mut long = info("/x", "a");
        *edit(&mut long) = "é".repeat(513);
        let (answer, change) = call(&mut world, DiscoveryRequest::register(long));
        let message = format!(
            "Topic /x is not registered: its {field} has 1026 bytes, at most 1024 are allowed"
        );
        assert_eq!(answer, response(DiscoveryStatus::Error, &message));
        assert_eq!(change, None);
        let mut longest = info("/long", "a");
        *edit(&mut longest) = "é".repeat(512);
        let name = longest.name.clone();
        let answer = reply(&mut world, DiscoveryRequest::register(longest));
        assert_eq!(answer.status, DiscoveryStatus::Ok, "{field}");
        reply(&mut world, DiscoveryRequest::unregister(name));
    }
    let list = reply(&mut world, DiscoveryRequest::list()).topics;
    assert_eq!(list, [info("/x", "a")]);
}

#[test]
fn registered_topics_can_register_again_at_the_topic_limit() {
    let mut world = with_limits(Limits { topics: 2, ..Limits::default() });
    for name in ["/a", "/b"] {
        reply(&mut world, DiscoveryRequest::register(info(name, "n")));
    }
    let answer = reply(&mut world, DiscoveryRequest::register(info("/c", "n")));
    assert_eq!(
        answer,
        response(
            DiscoveryStatus::Error,
            "Topic /c is not registered: this daemon holds 2 topics and takes no more"
        )
    );
    let again = reply(&mut world, DiscoveryRequest::register(info("/a", "n")));
    assert_eq!(again.status, DiscoveryStatus::Ok);
    reply(&mut world, DiscoveryRequest::unregister("/a"));
    let answer = reply(&mut world, DiscoveryRequest::register(info("/c", "n")));
    assert_eq!(answer.status, DiscoveryStatus::Ok);
    assert_eq!(world.registry.topic_count(), 2);
    assert_eq!(world.registry.counters().over_limit, 1);
}

#[test]
fn an_unchanged_list_is_packed_once() {
    let mut world = World::new();
    reply(&mut world, DiscoveryRequest::register(info("/a", "n")));
    let mut cost = || {
        let list = Ok(Box::new(DiscoveryRequest::list()));
        let request = PeerRequest {
            reply_to: common::reply_to(9),
            peer: REMOTE,
            is_req: false,
            request: list,
        };
        world.registry.handle(Input::Request(request), world.now);
        let work = world.registry.cost();
        let effects = world.registry.take_effects(world.now);
        assert_eq!(effects.replies.len(), 1);
        work
    };
    cost();
    assert_eq!(cost(), 0);
}

/// The reply to a request and its change to the topics, according to the protocol's table.
fn model(topics: &mut Vec<TopicInfo>, request: &DiscoveryRequest) -> DiscoveryResponse {
    use DiscoveryStatus::{AlreadyExists, Error, NotFound, Ok};
    let RequestedCommand::Known(command) = request.command else {
        panic!("the sequences have known commands only")
    };
    let given = request.topic_name.clone().filter(|name| !name.is_empty());
    match command {
        DiscoveryCommand::RegisterTopic => {
            let Some(info) = request.topic_info.clone() else {
                return response(Error, "Missing topic_info in register request");
            };
            let done = response(Ok, &format!("Registered topic: {}", info.name));
            match topics.iter_mut().find(|known| known.name == info.name) {
                Some(known) if known.publisher_node != info.publisher_node => {
                    let (name, node) = (&known.name, &known.publisher_node);
                    let message = format!("Topic {name} already registered by {node}");
                    return response(AlreadyExists, &message);
                }
                Some(known) => *known = info,
                None => topics.push(info),
            }
            done
        }
        DiscoveryCommand::UnregisterTopic => {
            let in_info = request.topic_info.as_ref().map(|info| info.name.to_string());
            let Some(name) = given.or(in_info) else {
                return response(Error, "Missing topic name in unregister request");
            };
            let before = topics.len();
            topics.retain(|known| known.name.as_str() != name);
            if topics.len() < before {
                response(Ok, &format!("Unregistered topic: {name}"))
            } else {
                response(NotFound, &format!("Topic {name} not found"))
            }
        }
        DiscoveryCommand::LookupTopic => {
            let Some(name) = given else {
                return response(Error, "Missing topic_name in lookup request");
            };
            match topics.iter().find(|known| known.name.as_str() == name) {
                Some(known) => {
                    DiscoveryResponse { topic_info: Some(known.clone()), ..response(Ok, "") }
                }
                None => response(NotFound, &format!("Topic {name} not found")),
            }
        }
        DiscoveryCommand::ListTopics => {
            DiscoveryResponse { topics: topics.clone(), ..response(Ok, "") }
        }
        DiscoveryCommand::Ping => response(Ok, "pong"),
        DiscoveryCommand::Shutdown
        | DiscoveryCommand::Renew
        | DiscoveryCommand::WaitTopic
        | DiscoveryCommand::WatchTopics
        | DiscoveryCommand::Stats
        | DiscoveryCommand::Cancel => {
            panic!("the sequences have legacy commands that do not end the daemon")
        }
    }
}

fn requests() -> impl Strategy<Value = DiscoveryRequest> {
    let commands = prop_oneof![
        4 => Just(DiscoveryCommand::RegisterTopic),
        2 => Just(DiscoveryCommand::UnregisterTopic),
        2 => Just(DiscoveryCommand::LookupTopic),
        2 => Just(DiscoveryCommand::ListTopics),
        1 => Just(DiscoveryCommand::Ping),
    ];
    let names = proptest::option::weighted(0.8, "[abc]{0,1}");
    let infos = ("[abc]", "[xy]", 0..3_u64)
        .prop_map(|(name, node, fingerprint)| TopicInfo { fingerprint, ..info(&name, &node) });
    let infos = proptest::option::weighted(0.8, infos);
    (commands, names, infos).prop_map(|(command, topic_name, topic_info)| DiscoveryRequest {
        command: command.into(),
        topic_name,
        topic_info,
        ext: None,
    })
}

proptest! {
    #[test]
    fn every_request_sequence_matches_the_model(sequence in vec(requests(), 0..60)) {
        let (mut world, mut topics) = (World::new(), Vec::new());
        for request in sequence {
            let before = topics.clone();
            let expected = model(&mut topics, &request);
            let (answer, change) = call(&mut world, request.clone());
            prop_assert_eq!(&answer, &expected, "{:?}", request);
            prop_assert_eq!(change, expected_change(&before, &topics, &request));
            prop_assert_eq!(world.registry.topic_count(), topics.len());
            prop_assert_eq!(&world.list(), &topics);
        }
    }
}

/// The change that leads from one list of topics to the other. A repeated registration without a
/// difference is no change.
fn expected_change(
    before: &[TopicInfo],
    after: &[TopicInfo],
    request: &DiscoveryRequest,
) -> Option<(EventKind, TopicInfo)> {
    if before == after {
        return None;
    }
    if let Some(gone) =
        before.iter().find(|topic| !after.iter().any(|kept| kept.name == topic.name))
    {
        return Some((EventKind::Unregistered, gone.clone()));
    }
    let info = request.topic_info.clone().unwrap();
    let is_new = before.iter().all(|known| known.name != info.name);
    Some((if is_new { EventKind::Registered } else { EventKind::Updated }, info))
}

#[test]
fn stats_count_the_refusals_before_it_in_its_batch() {
    let mut world = World::new();
    let long = TopicInfo { address: "x".repeat(2000), ..info("/a", "n") };
    let replies = world.call_batch(vec![
        (REMOTE, DiscoveryRequest::register(long)),
        (REMOTE, DiscoveryRequest::stats()),
    ]);
    assert_eq!(replies[1].ext.as_ref().unwrap().counts["over_limit"], 1);
}
