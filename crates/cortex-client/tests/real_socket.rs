//! The client against a REP or ROUTER socket that the test itself drives: no daemon, no sleep.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use std::thread;
use std::time::Duration;

use common::info;
use cortex_client::{DiscoveryClient, Error, UnreadableReply};
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus};

/// Only where nobody answers: a busy machine must not turn it into a failure.
const SHORT: Duration = Duration::from_millis(50);
/// Where the test's own socket must be reached before it ends.
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

fn not_found() -> Vec<u8> {
    DiscoveryResponse::new(DiscoveryStatus::NotFound, "Topic /a not found").to_bytes()
}

#[test]
fn each_call_sends_its_request_and_understands_the_answer() {
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

    let mut client = client(&address, LONG, 0);
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
fn a_late_reply_is_never_taken_for_the_next_call() {
    let (router, address) = listen(zmq::ROUTER);
    let mut client = client(&address, ENOUGH, 0);
    let no_answer = Error::NoAnswer { address: address.clone(), waited: ENOUGH, attempts: 1 };
    assert_eq!(client.lookup_topic("/first"), Err(no_answer));
    let first = router.recv_multipart(0).unwrap();

    let server = thread::spawn(move || {
        let second = router.recv_multipart(0).unwrap();
        assert_ne!(first[0], second[0], "a fresh connection");
        // Dropped by the router when the first connection is gone already, else by the client.
        router.send_multipart([&first[0], &first[1], &found("/first")], 0).unwrap();
        router.send_multipart([&second[0], &second[1], &found("/second")], 0).unwrap();
        router
    });
    assert_eq!(client.lookup_topic("/second"), Ok(info("/second")));
    server.join().unwrap();
}

#[test]
fn attempts_are_counted_and_a_repeated_unregister_may_find_nothing() {
    let (router, address) = listen(zmq::ROUTER);
    let server = thread::spawn(move || {
        let unanswered = router.recv_multipart(0).unwrap();
        let repeated = router.recv_multipart(0).unwrap();
        assert_eq!(unanswered[2], repeated[2], "the same request");
        router.send_multipart([&repeated[0], &repeated[1], &not_found()], 0).unwrap();
        router
    });
    assert_eq!(client(&address, ENOUGH, 1).unregister_topic("/a"), Ok(()));

    let _router = server.join().unwrap();
    let no_answer = Error::NoAnswer { address: address.clone(), waited: 3 * SHORT, attempts: 3 };
    assert_eq!(client(&address, SHORT, 2).ping(), Err(no_answer));
}

#[test]
fn what_cannot_be_read_is_said_and_the_next_call_works() {
    let (server, address) = listen(zmq::REP);
    let server = thread::spawn(move || {
        for parts in [vec![ok("pong"), ok("pong")], vec![b"pong".to_vec()], vec![ok("pong")]] {
            server.recv_bytes(0).unwrap();
            server.send_multipart(parts, 0).unwrap();
        }
        server
    });
    let mut client = client(&address, LONG, 0);
    assert_eq!(client.ping(), Err(UnreadableReply::Parts { count: 2 }.into()));
    let garbage = client.ping().unwrap_err();
    assert!(matches!(garbage, Error::Unreadable(UnreadableReply::Decode(_))), "{garbage}");
    assert_eq!(client.ping(), Ok(()));
    server.join().unwrap();
}

#[test]
fn a_wait_goes_on_while_the_topic_or_the_daemon_is_missing() {
    let (server, address) = listen(zmq::REP);
    let server = thread::spawn(move || {
        for reply in [not_found(), not_found(), found("/a")] {
            server.recv_bytes(0).unwrap();
            server.send(reply, 0).unwrap();
        }
        server
    });
    let quick = || DiscoveryClient::builder().poll_interval(Duration::from_millis(1));
    let mut client = quick().address(&address).timeout(LONG).build().unwrap();
    assert_eq!(client.wait_for_topic("/a", LONG), Ok(info("/a")));

    let server = server.join().unwrap();
    let server = thread::spawn(move || {
        server.recv_bytes(0).unwrap();
        server.send(not_found(), 0).unwrap();
        server
    });
    // Nobody answers from the second lookup on, but that one is cut short by the wait's end.
    let missing = Error::WaitTimedOut { topic: "/a".into(), waited: ENOUGH };
    assert_eq!(client.wait_for_topic("/a", ENOUGH), Err(missing));
    server.join().unwrap();

    let mut nobody = quick().address("ipc:///nowhere/x.sock").timeout(SHORT).build().unwrap();
    let error = nobody.wait_for_topic("/a", SHORT * 3).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { attempts: 1.., .. }), "{error:?}");
}

#[test]
fn addresses_that_cannot_be_used_are_refused_at_once() {
    let long = format!("ipc:///{}", "a".repeat(200));
    for address in ["", "nonsense", "carrier-pigeon://home", "tcp://127.0.0.1", "ipc://a\0b", &long]
    {
        let error = DiscoveryClient::connect(address).unwrap_err();
        assert!(matches!(error, Error::InvalidAddress { .. }), "{address}: {error:?}");
    }
}

#[test]
fn the_daemon_may_come_after_the_request() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}/late.sock", directory.path().display());
    let mut client = client(&address, ENOUGH, 0);
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
