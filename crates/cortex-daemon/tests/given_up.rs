//! Requests that wait while their peer gives them up: they get no reply, so that no reply reaches
//! the peer's next request.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{World, info, local, process, reply_to};
use cortex_daemon::peer::ConnectionId;
use cortex_daemon::registry::{Input, PeerRequest, ProbeResult};
use cortex_proto::DiscoveryRequest;

/// Sends a REGISTER that waits for a probe of its topic's dead owner, and gives its connection.
fn pending_register(world: &mut World) -> usize {
    let old = info("/a", "old");
    world.set_endpoint(&old.address, ProbeResult::Dead);
    world.call(local(1, 10), DiscoveryRequest::register(old));
    world.delayed_probes = Some(Vec::new());
    world.kill(process(10));
    let number = world.send(local(1, 11), DiscoveryRequest::register(info("/a", "new")));
    assert_eq!(world.replies.get(&number), None, "it waits");
    number
}

fn request_on(connection: usize, is_req: bool, request: DiscoveryRequest) -> Input {
    let (reply_to, request) = (reply_to(connection), Ok(Box::new(request)));
    Input::Request(PeerRequest { reply_to, peer: local(1, 11), is_req, request })
}

#[test]
fn a_req_peer_s_next_request_cancels_its_pending_register() {
    for is_req in [true, false] {
        let mut world = World::new();
        let connection = pending_register(&mut world);
        world.deliver(vec![request_on(connection, is_req, DiscoveryRequest::ping())]);
        assert_eq!(world.replies.remove(&connection).unwrap().message, "pong");
        assert_eq!(world.cancelled, vec![connection; usize::from(is_req)]);
        world.finish_probes();
        let late = world.replies.remove(&connection).map(|reply| reply.message);
        assert_eq!(late, (!is_req).then(|| "Registered topic: /a".to_owned()));
        world.advance(5);
        assert_eq!(world.replies.get(&connection), None);
    }
}

#[test]
fn a_result_that_comes_with_a_req_peer_s_next_request_does_not_answer_the_one_before() {
    let mut world = World::new();
    let connection = pending_register(&mut world);
    let probes = world.delayed_probes.take().unwrap_or_default();
    let (name, revision, _) = probes.into_iter().next().unwrap();
    world.deliver(vec![
        Input::GaveUp(ConnectionId(connection)),
        Input::EndpointProbed { name, revision, result: ProbeResult::Dead, listener: None },
        request_on(connection, true, DiscoveryRequest::lookup("/a")),
    ]);
    // The world lets no request be answered twice.
    assert_eq!(world.replies.remove(&connection).unwrap().message, "Topic /a not found");
    assert_eq!(world.cancelled, [connection]);
}

#[test]
fn a_pending_register_ends_with_its_connection() {
    let mut world = World::new();
    let connection = pending_register(&mut world);
    world.deliver(vec![Input::Disconnected(ConnectionId(connection))]);
    assert_eq!(world.cancelled, [connection]);
    world.finish_probes();
    assert_eq!(world.replies.get(&connection), None);
    assert!(world.names().is_empty(), "its node does not know of a registration");
}
