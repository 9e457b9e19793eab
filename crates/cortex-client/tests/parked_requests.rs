//! Requests that are held back, against a ROUTER socket that the test itself drives: no daemon, no
//! sleep.

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

/// A daemon's place, and the daemon that the test plays.
struct Stage {
    directory: TempDir,
    router: Option<zmq::Socket>,
}

/// A request, and whom to answer.
struct Asked {
    envelope: Vec<Vec<u8>>,
    request: DiscoveryRequest,
}

impl Stage {
    fn new() -> Self {
        let mut stage = Self { directory: tempfile::tempdir().unwrap(), router: None };
        stage.start();
        stage
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

    /// Closes all connections without a word.
    fn kill(&mut self) {
        self.router = None;
    }

    fn asked(&self) -> Asked {
        let mut envelope = self.router.as_ref().unwrap().recv_multipart(0).unwrap();
        let body = envelope.pop().unwrap();
        Asked { envelope, request: DiscoveryRequest::from_bytes(&body).unwrap() }
    }

    fn expect(&self, expected: &DiscoveryRequest) -> Asked {
        let asked = self.asked();
        assert_eq!(asked.request, *expected);
        asked
    }

    fn answer(&self, asked: &Asked, response: &DiscoveryResponse) {
        let body = response.to_bytes();
        let frames = asked.envelope.iter().cloned().chain([body]);
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

fn told(event: WatchEvent) -> String {
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
    told(watch.next().unwrap().unwrap())
}

#[test]
fn a_wait_that_is_held_back_is_asked_again_at_once_when_the_daemon_is_killed() {
    let mut stage = Stage::new();
    let mut client = stage.client();
    let waiting = thread::spawn(move || (client.wait_for_topic("/a", LONG), client.ping()));
    stage.answer(&stage.expect(&lookup("/a")), &absent());
    let parked = stage.asked();
    assert_eq!(parked.request.command, DiscoveryCommand::WaitTopic.into());
    assert!(parked.request.ext.unwrap().wait_ms > Some(15_000), "held back for long");

    stage.kill();
    stage.start();
    stage.answer(&stage.expect(&lookup("/a")), &absent());
    let parked = stage.asked();
    assert_eq!(parked.request.command, DiscoveryCommand::WaitTopic.into());
    stage.answer(&parked, &found("/a"));

    let pong = response(DiscoveryStatus::Ok, ResponseExt::default());
    stage.answer(&stage.expect(&DiscoveryRequest::ping()), &pong);
    assert_eq!(waiting.join().unwrap(), (Ok(info("/a")), Ok(())), "and the connection is of use");
}

#[test]
fn a_wait_is_over_on_time_whatever_the_daemon_does() {
    let stage = Stage::new();
    let mut client = stage.client();
    let timeout = Duration::from_millis(300);
    let waiting = thread::spawn(move || {
        let began = Instant::now();
        (client.wait_for_topic("/a", timeout), began.elapsed())
    });
    stage.answer(&stage.expect(&lookup("/a")), &absent());
    let _unanswered = stage.asked();
    let (outcome, took) = waiting.join().unwrap();
    assert_eq!(outcome, Err(Error::WaitTimedOut { topic: "/a".into(), waited: timeout }));
    assert!(took >= timeout, "{took:?}");
}

#[test]
fn a_watch_goes_on_where_it_was_when_the_daemon_is_killed() {
    let mut stage = Stage::new();
    let mut watching = stage.client().watch(None).unwrap();
    let reader = thread::spawn(move || {
        let heard: Vec<_> = (0..5).map(|_| next(&mut watching)).collect();
        (heard, watching)
    });
    stage.answer(&stage.expect(&watch_all()), &snapshot(&["/a", "/b"], 2));
    stage.answer(&stage.expect(&watch(since(2), 20_000)), &registered(&[("/c", 3)], 3));
    let _lost_with_the_daemon = stage.expect(&watch(since(3), 20_000));

    stage.kill();
    stage.start();
    // One that was heard before is not told twice.
    let news = registered(&[("/c", 3), ("/d", 4)], 5);
    stage.answer(&stage.expect(&watch(since(3), 0)), &news);
    stage.answer(&stage.expect(&watch(since(5), 20_000)), &registered(&[], 5));
    // It came at once, so the question is repeated a little later.
    stage.answer(&stage.expect(&watch(since(5), 20_000)), &snapshot(&["/x"], 9));
    stage.answer(&stage.expect(&watch(since(9), 20_000)), &registered(&[("/y", 10)], 10));
    let (heard, watching) = reader.join().unwrap();
    assert_eq!(
        heard,
        ["first /a /b", "registered /c", "registered /d", "again /x", "registered /y"]
    );
    assert_eq!(watching.trouble(), None);
}

#[test]
fn a_watch_may_be_looked_at_often_without_asking_often() {
    let mut stage = Stage::new();
    let mut watching = stage.client().watch(Some("/camera/*")).unwrap();
    assert_eq!(watching.next_within(Duration::ZERO), Ok(None), "it has asked, no more");
    let asked = stage.asked();
    assert_eq!(asked.request.ext.as_ref().unwrap().filter.as_deref(), Some("/camera/*"));
    stage.answer(&asked, &snapshot(&[], 0));
    assert_eq!(next(&mut watching), "first ");

    for _ in 0..20 {
        assert_eq!(watching.next_within(Duration::from_millis(1)), Ok(None));
    }
    let asked = stage.asked();
    assert_eq!(asked.request.ext.as_ref().unwrap().since, Some(since(0)));
    let only = stage.router.as_ref().unwrap().poll(zmq::POLLIN, 0).unwrap();
    assert_eq!(only, 0, "one question is under way");
    stage.answer(&asked, &registered(&[("/camera/left", 1), ("/camera/right", 2)], 2));
    let event = watching.next_within(LONG).unwrap().unwrap();
    assert_eq!(told(event), "registered /camera/left");
    let event = watching.next_within(Duration::ZERO).unwrap().unwrap();
    assert_eq!(told(event), "registered /camera/right", "it was there already");

    assert_eq!(watching.trouble(), None);
    assert_eq!(watching.next_within(Duration::from_millis(1)), Ok(None));
    stage.kill();
    let gone = || Error::Disconnected { address: stage.address() };
    let deadline = Instant::now() + LONG;
    while watching.trouble() != Some(&gone()) {
        assert_eq!(watching.next_within(Duration::from_millis(5)), Ok(None));
        assert!(Instant::now() < deadline, "{:?}", watching.trouble());
    }
    stage.start();
    let back = thread::spawn(move || {
        let asked = stage.asked();
        stage.answer(&asked, &registered(&[("/camera/top", 3)], 3));
        stage
    });
    assert_eq!(next(&mut watching), "registered /camera/top");
    assert_eq!(watching.trouble(), None);
    back.join().unwrap();
}

#[test]
fn a_watch_goes_on_after_an_answer_that_it_cannot_use() {
    let stage = Stage::new();
    let mut watching = stage.client().watch(None).unwrap();
    let reader = thread::spawn(move || {
        let refused = watching.next().unwrap();
        let unreadable = watching.next().unwrap();
        (refused, unreadable, next(&mut watching))
    });
    let refusal = DiscoveryResponse {
        message: "not today".into(),
        ..response(DiscoveryStatus::Error, ResponseExt::default())
    };
    stage.answer(&stage.asked(), &refusal);
    stage.answer(&stage.asked(), &response(DiscoveryStatus::Ok, ResponseExt::default()));
    stage.answer(&stage.asked(), &snapshot(&["/a"], 1));
    let (refused, unreadable, first) = reader.join().unwrap();
    assert_eq!(refused, Err(Error::Refused { message: "not today".into() }));
    assert_eq!(unreadable, Err(UnreadableReply::NoPlace.into()));
    assert_eq!(first, "first /a");
}

#[test]
fn a_pattern_that_is_none_is_told_before_anything_is_asked() {
    let stage = Stage::new();
    let error = stage.client().watch(Some("/a[")).unwrap_err();
    assert!(matches!(error, Error::Filter { .. }), "{error:?}");
    assert!(error.to_string().starts_with("\"/a[\" is not a pattern: "), "{error}");
}

#[test]
fn nothing_is_asked_before_somebody_looks() {
    let stage = Stage::new();
    let watching = stage.client().watch(None).unwrap();
    assert_eq!(
        stage.router.as_ref().unwrap().poll(zmq::POLLIN, 50).unwrap(),
        0,
        "it asks when asked"
    );
    drop(watching);
}

#[test]
fn a_place_that_closes_every_connection_is_not_flooded_with_them() {
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
    let mut client = DiscoveryClient::builder().address(address).timeout(LONG).build().unwrap();
    // The client has connected already, and watches by another connection.
    let mut watching = client.watch(None).unwrap();
    assert_eq!(watching.next_within(Duration::from_secs(1)), Ok(None));
    assert!(matches!(watching.trouble(), Some(Error::Disconnected { .. })));
    drop(watching);
    let waited = client.wait_for_topic("/a", Duration::from_secs(1));
    assert!(matches!(waited, Err(Error::NoAnswer { .. })), "{waited:?}");
    let connections = connections.load(Ordering::Relaxed);
    assert!((4..100).contains(&connections), "{connections}");
}
