//! Parked requests, against a fake daemon: a ROUTER socket that the test drives, without sleeps.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::info;
use cortex_client::{DiscoveryClient, Error, EventKind, UnreadableReply, Watch, WatchEvent};
use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, EventExt, RequestExt,
    ResponseExt, Since,
};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);

/// A daemon that the test plays, and the directory of its socket.
struct FakeDaemon {
    directory: TempDir,
    router: Option<zmq::Socket>,
}

/// A request, and the envelope of its answer.
struct ReceivedRequest {
    envelope: Vec<Vec<u8>>,
    request: DiscoveryRequest,
}

impl FakeDaemon {
    fn new() -> Self {
        let mut daemon = Self { directory: tempfile::tempdir().unwrap(), router: None };
        daemon.start();
        daemon
    }

    fn address(&self) -> String {
        format!("ipc://{}/d.sock", self.directory.path().display())
    }

    fn start(&mut self) {
        let router = zmq::Context::new().socket(zmq::ROUTER).unwrap();
        router.set_linger(0).unwrap();
        router.set_rcvtimeo(20_000).unwrap();
        router.bind(&self.address()).unwrap();
        self.router = Some(router);
    }

    /// Closes all connections without answers.
    fn kill(&mut self) {
        self.router = None;
    }

    fn received(&self) -> ReceivedRequest {
        let mut envelope = self.router.as_ref().unwrap().recv_multipart(0).unwrap();
        let body = envelope.pop().unwrap();
        ReceivedRequest { envelope, request: DiscoveryRequest::from_bytes(&body).unwrap() }
    }

    fn expect(&self, expected: &DiscoveryRequest) -> ReceivedRequest {
        let received = self.received();
        assert_eq!(received.request, *expected);
        received
    }

    fn answer(&self, received: &ReceivedRequest, response: &DiscoveryResponse) {
        let body = response.to_bytes();
        let frames = received.envelope.iter().cloned().chain([body]);
        self.router.as_ref().unwrap().send_multipart(frames, 0).unwrap();
    }

    fn client(&self) -> DiscoveryClient {
        DiscoveryClient::builder().address(self.address()).timeout(LONG).build().unwrap()
    }
}

fn response(status: DiscoveryStatus, ext: ResponseExt) -> DiscoveryResponse {
    DiscoveryResponse { ext: Some(ext), ..DiscoveryResponse::new(status, "") }
}

fn absent() -> DiscoveryResponse {
    response(DiscoveryStatus::NotFound, ResponseExt::default())
}

fn found(name: &str) -> DiscoveryResponse {
    let topic_info = Some(info(name));
    DiscoveryResponse { topic_info, ..response(DiscoveryStatus::Ok, ResponseExt::default()) }
}

fn lookup(name: &str) -> DiscoveryRequest {
    DiscoveryRequest::lookup(name).with_ext(RequestExt::default())
}

fn watch_all() -> DiscoveryRequest {
    DiscoveryRequest::watch(RequestExt { wait_ms: Some(0), ..RequestExt::default() })
}

fn watch(since: Since, wait_ms: u64) -> DiscoveryRequest {
    let (since, wait_ms) = (Some(since), Some(wait_ms));
    DiscoveryRequest::watch(RequestExt { since, wait_ms, ..RequestExt::default() })
}

fn since(revision: u64) -> Since {
    Since { epoch: 7, revision }
}

fn snapshot(names: &[&str], revision: u64) -> DiscoveryResponse {
    let ext = ResponseExt {
        epoch: Some(7),
        revision: Some(revision),
        snapshot: Some(true),
        ..ResponseExt::default()
    };
    let topics = names.iter().map(|name| info(name)).collect();
    DiscoveryResponse { topics, ..response(DiscoveryStatus::Ok, ext) }
}

fn registered(names: &[(&str, u64)], revision: u64) -> DiscoveryResponse {
    let event = |(name, revision): &(&str, u64)| EventExt {
        kind: EventKind::Registered,
        revision: *revision,
        topic_name: (*name).into(),
        topic_info: info(name),
        reason: None,
    };
    let ext = ResponseExt {
        epoch: Some(7),
        revision: Some(revision),
        events: Some(names.iter().map(event).collect()),
        ..ResponseExt::default()
    };
    response(DiscoveryStatus::Ok, ext)
}

fn describe(event: WatchEvent) -> String {
    match event {
        WatchEvent::Snapshot { topics, is_resync, .. } => {
            let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
            format!("{} {}", if is_resync { "again" } else { "first" }, names.join(" "))
        }
        WatchEvent::Changed(change) => format!("{} {}", change.kind, change.info.name),
        event => panic!("{event:?}"),
    }
}

fn next(watch: &mut Watch) -> String {
    describe(watch.next().unwrap().unwrap())
}

#[test]
fn a_parked_wait_is_sent_again_at_once_when_the_daemon_is_killed() {
    let mut daemon = FakeDaemon::new();
    let client = daemon.client();
    let waiting = thread::spawn(move || (client.wait_for_topic("/a", LONG), client.ping()));
    daemon.answer(&daemon.expect(&lookup("/a")), &absent());
    let parked = daemon.received();
    assert_eq!(parked.request.command, DiscoveryCommand::WaitTopic.into());
    assert!(parked.request.ext.unwrap().wait_ms > Some(15_000), "a long park time");

    daemon.kill();
    daemon.start();
    daemon.answer(&daemon.expect(&lookup("/a")), &absent());
    let parked = daemon.received();
    assert_eq!(parked.request.command, DiscoveryCommand::WaitTopic.into());
    daemon.answer(&parked, &found("/a"));

    let pong = response(DiscoveryStatus::Ok, ResponseExt::default());
    daemon.answer(&daemon.expect(&DiscoveryRequest::ping()), &pong);
    assert_eq!(waiting.join().unwrap(), (Ok(info("/a")), Ok(())), "the connection still works");
}

#[test]
fn a_wait_ends_on_time_while_its_request_is_parked() {
    let daemon = FakeDaemon::new();
    let client = daemon.client();
    let timeout = Duration::from_millis(300);
    let waiting = thread::spawn(move || {
        let began = Instant::now();
        (client.wait_for_topic("/a", timeout), began.elapsed())
    });
    daemon.answer(&daemon.expect(&lookup("/a")), &absent());
    let _unanswered = daemon.received();
    let (outcome, took) = waiting.join().unwrap();
    assert_eq!(outcome, Err(Error::WaitTimedOut { topic: "/a".into(), waited: timeout }));
    assert!(took >= timeout, "{took:?}");
}

#[test]
fn a_watch_continues_at_its_revision_when_the_daemon_is_killed() {
    let mut daemon = FakeDaemon::new();
    let mut watching = daemon.client().watch(None).unwrap();
    let reader = thread::spawn(move || {
        let events: Vec<_> = (0..5).map(|_| next(&mut watching)).collect();
        (events, watching)
    });
    daemon.answer(&daemon.expect(&watch_all()), &snapshot(&["/a", "/b"], 2));
    daemon.answer(&daemon.expect(&watch(since(2), 20_000)), &registered(&[("/c", 3)], 3));
    let _lost_with_the_daemon = daemon.expect(&watch(since(3), 20_000));

    daemon.kill();
    daemon.start();
    // The watch gives no event twice.
    let events = registered(&[("/c", 3), ("/d", 4)], 5);
    daemon.answer(&daemon.expect(&watch(since(3), 0)), &events);
    daemon.answer(&daemon.expect(&watch(since(5), 20_000)), &registered(&[], 5));
    // The daemon did not park the query, so the watch repeats it after a pause.
    daemon.answer(&daemon.expect(&watch(since(5), 20_000)), &snapshot(&["/x"], 9));
    daemon.answer(&daemon.expect(&watch(since(9), 20_000)), &registered(&[("/y", 10)], 10));
    let (events, watching) = reader.join().unwrap();
    assert_eq!(
        events,
        ["first /a /b", "registered /c", "registered /d", "again /x", "registered /y"]
    );
    assert_eq!(watching.trouble(), None);
}

#[test]
fn a_watch_that_is_polled_often_sends_one_query() {
    let mut daemon = FakeDaemon::new();
    let mut watching = daemon.client().watch(Some("/camera/*")).unwrap();
    assert_eq!(watching.next_within(Duration::ZERO), Ok(None), "the watch has sent its query");
    let received = daemon.received();
    assert_eq!(received.request.ext.as_ref().unwrap().filter.as_deref(), Some("/camera/*"));
    daemon.answer(&received, &snapshot(&[], 0));
    assert_eq!(next(&mut watching), "first ");

    for _ in 0..20 {
        assert_eq!(watching.next_within(Duration::from_millis(1)), Ok(None));
    }
    let received = daemon.received();
    assert_eq!(received.request.ext.as_ref().unwrap().since, Some(since(0)));
    let only = daemon.router.as_ref().unwrap().poll(zmq::POLLIN, 0).unwrap();
    assert_eq!(only, 0, "one query is outstanding");
    daemon.answer(&received, &registered(&[("/camera/left", 1), ("/camera/right", 2)], 2));
    let event = watching.next_within(LONG).unwrap().unwrap();
    assert_eq!(describe(event), "registered /camera/left");
    let event = watching.next_within(Duration::ZERO).unwrap().unwrap();
    assert_eq!(describe(event), "registered /camera/right", "the event had already arrived");

    assert_eq!(watching.trouble(), None);
    assert_eq!(watching.next_within(Duration::from_millis(1)), Ok(None));
    daemon.kill();
    let gone = || Error::Disconnected { address: daemon.address() };
    let deadline = Instant::now() + LONG;
    while watching.trouble() != Some(gone()) {
        assert_eq!(watching.next_within(Duration::from_millis(5)), Ok(None));
        assert!(Instant::now() < deadline, "{:?}", watching.trouble());
    }
    daemon.start();
    let back = thread::spawn(move || {
        let received = daemon.received();
        daemon.answer(&received, &registered(&[("/camera/top", 3)], 3));
        daemon
    });
    assert_eq!(next(&mut watching), "registered /camera/top");
    assert_eq!(watching.trouble(), None);
    back.join().unwrap();
}

#[test]
fn a_watch_continues_after_a_refusal_and_an_unreadable_answer() {
    let daemon = FakeDaemon::new();
    let mut watching = daemon.client().watch(None).unwrap();
    let reader = thread::spawn(move || {
        let refused = watching.next().unwrap();
        let unreadable = watching.next().unwrap();
        (refused, unreadable, next(&mut watching))
    });
    let refusal = DiscoveryResponse {
        message: "not today".into(),
        ..response(DiscoveryStatus::Error, ResponseExt::default())
    };
    daemon.answer(&daemon.received(), &refusal);
    daemon.answer(&daemon.received(), &response(DiscoveryStatus::Ok, ResponseExt::default()));
    daemon.answer(&daemon.received(), &snapshot(&["/a"], 1));
    let (refused, unreadable, first) = reader.join().unwrap();
    assert_eq!(refused, Err(Error::Refused { message: "not today".into() }));
    assert_eq!(unreadable, Err(UnreadableReply::NoRevision.into()));
    assert_eq!(first, "first /a");
}

#[test]
fn an_invalid_filter_is_an_error_before_any_request() {
    let daemon = FakeDaemon::new();
    let error = daemon.client().watch(Some("/a[")).unwrap_err();
    assert!(matches!(error, Error::InvalidFilter { .. }), "{error:?}");
    assert!(error.to_string().starts_with("\"/a[\" is not a pattern: "), "{error}");
}

#[test]
fn the_client_backs_off_from_a_listener_that_closes_each_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let address = format!("ipc://{}", path.display());
    let client = DiscoveryClient::builder().address(address).timeout(LONG).build().unwrap();
    let mut watching = client.watch(None).unwrap();
    assert_eq!(watching.next_within(Duration::from_secs(1)), Ok(None));
    drop(watching);
    let waited = client.wait_for_topic("/a", Duration::from_secs(1));
    assert!(matches!(waited, Err(Error::NoAnswer { .. })), "{waited:?}");
    let connections = connections.load(Ordering::Relaxed);
    assert!((4..100).contains(&connections), "{connections}");
}
