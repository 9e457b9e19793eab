//! The core against a naive model: a `Vec` in the order of first registration.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use cortex_daemon::peer::{ConnectionId, ReplyTo};
use cortex_daemon::registry::{Change, Effect, Input, Limits, Registry};
use cortex_daemon::zmtp::Envelope;
use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestedCommand,
    TopicInfo, TopicName,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn info(name: &str, node: &str) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: format!("ipc:///tmp{name}.sock"),
        message_type: "M".into(),
        fingerprint: 1,
        publisher_node: node.into(),
    }
}

/// One of a topic's texts.
type Field = fn(&mut TopicInfo) -> &mut String;

fn peer() -> ReplyTo {
    ReplyTo { connection: ConnectionId(7), envelope: Envelope::default() }
}

/// Asks, and gives the reply, the change and whether the daemon is to end. Checks that there is
/// exactly one reply, to the one who asked, behind the change and before the end.
fn ask(
    registry: &mut Registry,
    request: DiscoveryRequest,
) -> (DiscoveryResponse, Option<Change>, bool) {
    let mut effects = Vec::new();
    registry.handle(Input::Request { from: peer(), request }, &mut effects);
    let mut effects = effects.into_iter().peekable();
    let change = match effects.next_if(|effect| matches!(effect, Effect::Changed(_))) {
        Some(Effect::Changed(change)) => Some(change),
        _ => None,
    };
    let Some(Effect::Reply { to, status, body }) = effects.next() else {
        panic!("a request is answered")
    };
    let stops = effects.next() == Some(Effect::Stop);
    assert_eq!(effects.next(), None);
    assert_eq!(to, peer());
    let response = DiscoveryResponse::from_bytes(&body).unwrap();
    assert_eq!(response.status, status);
    (response, change, stops)
}

fn reply(registry: &mut Registry, request: DiscoveryRequest) -> DiscoveryResponse {
    ask(registry, request).0
}

fn response(status: DiscoveryStatus, message: &str) -> DiscoveryResponse {
    DiscoveryResponse::new(status, message)
}

#[test]
fn shutdown_is_answered_and_then_ends_the_daemon() {
    let (answer, change, stops) = ask(&mut Registry::default(), DiscoveryRequest::shutdown());
    assert_eq!(answer, response(DiscoveryStatus::Ok, "Shutting down"));
    assert_eq!((change, stops), (None, true));
}

#[test]
fn an_unknown_command_is_named() {
    let command = RequestedCommand::Unknown(-7);
    let request = DiscoveryRequest { command, ..DiscoveryRequest::ping() };
    let message = "Failed to parse request: -7 is not a known command";
    let expected = response(DiscoveryStatus::Error, message);
    assert_eq!(reply(&mut Registry::default(), request), expected);
}

#[test]
fn unregister_takes_the_name_from_either_place() {
    for topic_name in [None, Some(String::new())] {
        let mut registry = Registry::default();
        reply(&mut registry, DiscoveryRequest::register(info("/x", "a")));
        let request = DiscoveryRequest {
            command: DiscoveryCommand::UnregisterTopic.into(),
            topic_name,
            topic_info: Some(info("/x", "someone else")),
        };
        let (answer, change, _) = ask(&mut registry, request);
        assert_eq!(answer, response(DiscoveryStatus::Ok, "Unregistered topic: /x"));
        assert_eq!(change, Some(Change::Unregistered(TopicName::new("/x").unwrap())));
    }
    // `topic_name` counts where both are there.
    let mut registry = Registry::default();
    let request = DiscoveryRequest {
        topic_info: Some(info("/x", "a")),
        ..DiscoveryRequest::unregister("/y")
    };
    let expected = response(DiscoveryStatus::NotFound, "Topic /y not found");
    assert_eq!(reply(&mut registry, request), expected);
}

#[test]
fn a_name_too_long_to_be_registered_is_simply_not_found() {
    let name = "n".repeat(5000);
    let expected = response(DiscoveryStatus::NotFound, &format!("Topic {name} not found"));
    let mut registry = Registry::default();
    assert_eq!(reply(&mut registry, DiscoveryRequest::lookup(&*name)), expected);
    assert_eq!(reply(&mut registry, DiscoveryRequest::unregister(name)), expected);
}

#[test]
fn fields_have_a_limit_and_nothing_is_lost_beyond_it() {
    let mut registry = Registry::default();
    reply(&mut registry, DiscoveryRequest::register(info("/x", "a")));
    let edits: [(&str, Field); 3] = [
        ("address", |info| &mut info.address),
        ("message_type", |info| &mut info.message_type),
        ("publisher_node", |info| &mut info.publisher_node),
    ];
    for (field, edit) in edits {
        let mut long = info("/x", "a");
        *edit(&mut long) = "é".repeat(513);
        let (answer, change, _) = ask(&mut registry, DiscoveryRequest::register(long));
        let message = format!(
            "Topic /x is not registered: its {field} has 1026 bytes, at most 1024 are allowed"
        );
        assert_eq!(answer, response(DiscoveryStatus::Error, &message));
        assert_eq!(change, None);
        let mut longest = info("/long", "a");
        *edit(&mut longest) = "é".repeat(512);
        let name = longest.name.clone();
        let answer = reply(&mut registry, DiscoveryRequest::register(longest));
        assert_eq!(answer.status, DiscoveryStatus::Ok, "{field}");
        reply(&mut registry, DiscoveryRequest::unregister(name));
    }
    let list = reply(&mut registry, DiscoveryRequest::list()).topics;
    assert_eq!(list, [info("/x", "a")]);
}

#[test]
fn topics_have_a_limit_that_does_not_hinder_those_that_are_there() {
    let mut registry = Registry::new(Limits { topics: 2, ..Limits::default() });
    for name in ["/a", "/b"] {
        reply(&mut registry, DiscoveryRequest::register(info(name, "n")));
    }
    let answer = reply(&mut registry, DiscoveryRequest::register(info("/c", "n")));
    assert_eq!(
        answer,
        response(
            DiscoveryStatus::Error,
            "Topic /c is not registered: this daemon holds 2 topics and takes no more"
        )
    );
    let again = reply(&mut registry, DiscoveryRequest::register(info("/a", "n")));
    assert_eq!(again.status, DiscoveryStatus::Ok);
    reply(&mut registry, DiscoveryRequest::unregister("/a"));
    let answer = reply(&mut registry, DiscoveryRequest::register(info("/c", "n")));
    assert_eq!(answer.status, DiscoveryStatus::Ok);
    assert_eq!(registry.topic_count(), 2);
}

#[test]
fn a_list_that_nothing_changed_is_not_made_again() {
    let mut registry = Registry::default();
    reply(&mut registry, DiscoveryRequest::register(info("/a", "n")));
    let mut list = || {
        let mut effects = Vec::new();
        let input = Input::Request { from: peer(), request: DiscoveryRequest::list() };
        registry.handle(input, &mut effects);
        match effects.pop() {
            Some(Effect::Reply { body, .. }) => body,
            other => panic!("a list is answered, not {other:?}"),
        }
    };
    assert!(std::sync::Arc::ptr_eq(&list(), &list()));
}

/// What a request should lead to, by the protocol's table.
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
        DiscoveryCommand::Shutdown => response(Ok, "Shutting down"),
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
    })
}

proptest! {
    #[test]
    fn every_sequence_goes_as_the_table_says(sequence in vec(requests(), 0..60)) {
        let (mut registry, mut topics) = (Registry::default(), Vec::new());
        for request in sequence {
            let before = topics.clone();
            let expected = model(&mut topics, &request);
            let (answer, change, stops) = ask(&mut registry, request.clone());
            prop_assert_eq!(&answer, &expected, "{:?}", request);
            prop_assert!(!stops);
            // Each change is told, and nothing changes untold.
            let expected_change = match request.command {
                _ if answer.status != DiscoveryStatus::Ok => None,
                RequestedCommand::Known(DiscoveryCommand::RegisterTopic) => {
                    let info = request.topic_info.clone().unwrap();
                    let is_new = before.iter().all(|known| known.name != info.name);
                    Some(if is_new { Change::Registered(info) } else { Change::Updated(info) })
                }
                RequestedCommand::Known(DiscoveryCommand::UnregisterTopic) => {
                    let gone = before.iter().find(|known| !topics.contains(known)).unwrap();
                    Some(Change::Unregistered(gone.name.clone()))
                }
                RequestedCommand::Known(_) | RequestedCommand::Unknown(_) => None,
            };
            prop_assert_eq!(change, expected_change);
            prop_assert_eq!(registry.topic_count(), topics.len());
            let list = reply(&mut registry, DiscoveryRequest::list());
            prop_assert_eq!(&list.topics, &topics);
        }
    }
}
