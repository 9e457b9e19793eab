//! The client against a fake daemon: a REP or ROUTER socket that the test drives, without sleeps.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use std::thread;
use std::time::Duration;

use common::info;
use cortex_client::{DiscoveryClient, Error, UnreadableReply};
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus};

/// For calls that get no answer, so that a slow machine cannot make the test fail.
const SHORT: Duration = Duration::from_millis(50);
/// For calls that time out, but must reach the test's socket before.
const ENOUGH: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(20);

/// A socket at a free port, and its address.
fn listen(kind: zmq::SocketType) -> (zmq::Socket, String) {
    let socket = zmq::Context::new().socket(kind).unwrap();
    socket.set_linger(0).unwrap();
    socket.set_rcvtimeo(20_000).unwrap();
    socket.bind("tcp://127.0.0.1:*").unwrap();
    let address = socket.get_last_endpoint().unwrap().unwrap();
    (socket, address)
}

fn client(address: &str, timeout: Duration, retries: u32) -> DiscoveryClient {
    DiscoveryClient::builder().address(address).timeout(timeout).retries(retries).build().unwrap()
}

fn ok(message: &str) -> Vec<u8> {
    DiscoveryResponse::new(DiscoveryStatus::Ok, message).to_bytes()
}

fn found(name: &str) -> Vec<u8> {
    DiscoveryResponse {
        topic_info: Some(info(name)),
        ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
    }
    .to_bytes()
}

fn listed(names: &[&str]) -> Vec<u8> {
    let topics = names.iter().map(|name| info(name)).collect();
    DiscoveryResponse { topics, ..DiscoveryResponse::new(DiscoveryStatus::Ok, "") }.to_bytes()
}

fn not_found() -> Vec<u8> {
    DiscoveryResponse::new(DiscoveryStatus::NotFound, "Topic /a not found").to_bytes()
}

/// Replies to a request that a ROUTER has received.
fn reply(router: &zmq::Socket, request: &[Vec<u8>], body: Vec<u8>) {
    let envelope = request[..request.len() - 1].iter().cloned();
    router.send_multipart(envelope.chain([body]), 0).unwrap();
}

#[test]
fn each_call_sends_its_request_and_decodes_the_answer() {
    let (server, address) = listen(zmq::REP);
    let listed = DiscoveryResponse {
        topics: vec![info("/b"), info("/a")],
        ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
    };
    let script = vec![
        (DiscoveryRequest::register(info("/a")), ok("Registered topic: /a")),
        (DiscoveryRequest::lookup("/a"), found("/a")),
        (DiscoveryRequest::list(), listed.to_bytes()),
        (DiscoveryRequest::unregister("/a"), ok("Unregistered topic: /a")),
        (DiscoveryRequest::lookup("/a"), not_found()),
        (DiscoveryRequest::ping(), ok("pong")),
        (DiscoveryRequest::shutdown(), ok("Shutting down")),
    ];
    let server = thread::spawn(move || {
        for (expected, reply) in script {
            let request = server.recv_bytes(0).unwrap();
            assert_eq!(DiscoveryRequest::from_bytes(&request), Ok(expected));
            server.send(reply, 0).unwrap();
        }
        server
    });

    let client = client(&address, LONG, 0);
    assert_eq!(client.address(), address);
    assert_eq!(client.register_topic(&info("/a")), Ok(()));
    assert_eq!(client.lookup_topic("/a"), Ok(info("/a")));
    assert_eq!(client.list_topics(), Ok(vec![info("/b"), info("/a")]));
    assert_eq!(client.unregister_topic("/a"), Ok(()));
    assert_eq!(client.lookup_topic("/a"), Err(Error::NoSuchTopic { topic: "/a".into() }));
    assert_eq!(client.ping(), Ok(()));
    assert_eq!(client.shutdown(), Ok(()));
    server.join().unwrap();
}

#[test]
fn the_next_call_never_receives_a_late_reply() {
    let (router, address) = listen(zmq::ROUTER);
    let client = client(&address, ENOUGH, 0);
    let no_answer =
        Error::NoAnswer { address: address.clone(), waited: ENOUGH, attempts: 1, cause: None };
    assert_eq!(client.lookup_topic("/first"), Err(no_answer));
    let first = router.recv_multipart(0).unwrap();

    let server = thread::spawn(move || {
        let second = router.recv_multipart(0).unwrap();
        assert_ne!(first[0], second[0], "a new connection");
        // The router drops the late reply when the first connection is closed, else the client
        // does.
        reply(&router, &first, found("/first"));
        reply(&router, &second, found("/second"));
        router
    });
    assert_eq!(client.lookup_topic("/second"), Ok(info("/second")));
    server.join().unwrap();
}

#[test]
fn a_repeated_unregister_succeeds_without_a_topic_and_the_error_counts_attempts() {
    let (router, address) = listen(zmq::ROUTER);
    let server = thread::spawn(move || {
        let unanswered = router.recv_multipart(0).unwrap();
        let repeated = router.recv_multipart(0).unwrap();
        assert_eq!(unanswered.last(), repeated.last(), "the same request");
        reply(&router, &repeated, not_found());
        router
    });
    assert_eq!(client(&address, ENOUGH, 1).unregister_topic("/a"), Ok(()));

    let _router = server.join().unwrap();
    let no_answer =
        Error::NoAnswer { address: address.clone(), waited: 3 * SHORT, attempts: 3, cause: None };
    assert_eq!(client(&address, SHORT, 2).ping(), Err(no_answer));
}

#[test]
fn an_unreadable_answer_is_an_error_and_the_next_call_works() {
    let (server, address) = listen(zmq::REP);
    let server = thread::spawn(move || {
        for parts in [vec![ok("pong"), ok("pong")], vec![b"pong".to_vec()], vec![ok("pong")]] {
            server.recv_bytes(0).unwrap();
            server.send_multipart(parts, 0).unwrap();
        }
        server
    });
    let client = client(&address, LONG, 0);
    assert_eq!(client.ping(), Err(UnreadableReply::Parts { count: 2 }.into()));
    let garbage = client.ping().unwrap_err();
    assert!(matches!(garbage, Error::Unreadable(UnreadableReply::Decode(_))), "{garbage}");
    assert_eq!(client.ping(), Ok(()));
    server.join().unwrap();
}

#[test]
fn a_wait_continues_while_the_topic_or_the_daemon_is_missing() {
    let (server, address) = listen(zmq::REP);
    let server = thread::spawn(move || {
        for reply in [not_found(), listed(&[]), listed(&["/b", "/a"])] {
            server.recv_bytes(0).unwrap();
            server.send(reply, 0).unwrap();
        }
        server
    });
    let quick = || DiscoveryClient::builder().poll_interval(Duration::from_millis(1));
    let client = quick().address(&address).timeout(LONG).build().unwrap();
    assert_eq!(client.wait_for_topic("/a", LONG), Ok(info("/a")));

    let server = server.join().unwrap();
    let server = thread::spawn(move || {
        server.recv_bytes(0).unwrap();
        server.send(not_found(), 0).unwrap();
        server
    });
    // The list gets no answer before the end of the wait.
    let missing = Error::WaitTimedOut { topic: "/a".into(), waited: ENOUGH };
    assert_eq!(client.wait_for_topic("/a", ENOUGH), Err(missing));
    server.join().unwrap();

    let absent = quick().address("ipc:///nowhere/x.sock").timeout(SHORT).build().unwrap();
    let error = absent.wait_for_topic("/a", SHORT * 3).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { attempts: 1.., .. }), "{error:?}");
}

#[test]
fn invalid_addresses_are_refused_at_once() {
    let long = format!("ipc:///{}", "a".repeat(200));
    for address in ["", "nonsense", "carrier-pigeon://home", "tcp://127.0.0.1", "ipc://a\0b", &long]
    {
        let error = DiscoveryClient::connect(address).unwrap_err();
        assert!(matches!(error, Error::InvalidAddress { .. }), "{address}: {error:?}");
    }
}

#[test]
fn the_daemon_may_start_after_the_first_call() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}/late.sock", directory.path().display());
    let client = client(&address, ENOUGH, 0);
    assert!(matches!(client.ping(), Err(Error::NoAnswer { .. })));

    let server = zmq::Context::new().socket(zmq::REP).unwrap();
    server.set_rcvtimeo(20_000).unwrap();
    server.bind(&address).unwrap();
    let server = thread::spawn(move || {
        server.recv_bytes(0).unwrap();
        server.send(found("/a"), 0).unwrap();
        server
    });
    assert_eq!(client.wait_for_topic("/a", LONG), Ok(info("/a")));
    server.join().unwrap();
}
