//! Parked requests of peers of all kinds: when they get their replies, how much they slow other
//! requests, and what happens when their peers disconnect.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestExt, ResponseExt, Since,
};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::hex;
use cortex_tests::messages::{
    ParkedRequests, decode_response, hello, register_static, topic, topic_at, topic_names,
};
use cortex_tests::process::Process;
use cortex_tests::publisher_host::{Endpoint, PublisherHost, PublisherSpec};
use cortex_tests::python;
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::report_measurement;
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::zmq_peer::ZmqPeer;
use rustix::process::Signal;

const MINUTE_MS: u64 = 60_000;
/// On an idle machine the requirement is a tenth of this.
const MAX_WAKE_LATENCY: Duration = Duration::from_millis(100);

fn register(peer: &mut RawPeer, name: &str) {
    let reply = peer.request(&register_static(topic(name, "node"))).unwrap();
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
}

fn unregister(peer: &mut RawPeer, name: &str) {
    let reply = peer.request(&DiscoveryRequest::unregister(name)).unwrap();
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
}

fn watch(since: Option<Since>) -> DiscoveryRequest {
    let wait_ms = Some(MINUTE_MS);
    DiscoveryRequest::watch(RequestExt { since, wait_ms, ..RequestExt::default() })
}

fn send(peer: &mut RawPeer, request: &DiscoveryRequest) {
    peer.send(&raw_peer::request_message(&request.to_bytes())).unwrap();
}

fn receive(peer: &mut RawPeer) -> DiscoveryResponse {
    decode_response(&peer.read_reply().unwrap())
}

fn since_of(ext: &ResponseExt) -> Since {
    Since { epoch: ext.epoch.unwrap(), revision: ext.revision.unwrap() }
}

/// The kind and the topic of each event in a reply.
fn events(ext: &ResponseExt) -> Vec<(String, String)> {
    let events = ext.events.as_ref().unwrap_or_else(|| panic!("no events: {ext:?}"));
    events.iter().map(|event| (event.kind.to_string(), event.topic_name.clone())).collect()
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

/// Asks the daemon how many requests it has parked.
fn parked_requests(peer: &mut RawPeer) -> ParkedRequests {
    let counts = peer.request(&DiscoveryRequest::stats()).unwrap().ext.unwrap().counts;
    ParkedRequests::from_counters(&counts)
}

fn wait_until_parked(peer: &mut RawPeer, wanted: ParkedRequests) {
    eventually(&format!("the daemon has parked {wanted:?}"), TIMEOUT, || {
        (parked_requests(peer) == wanted).then_some(())
    });
}

#[test]
fn a_thousand_waiting_peers_each_wake_when_their_topic_is_registered() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let mut publisher = daemon.raw_peer();
    let mut peers: Vec<_> = (0..1000).map(|_| daemon.raw_peer()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        send(peer, &DiscoveryRequest::wait(format!("/{number}"), MINUTE_MS));
    }
    wait_until_parked(&mut publisher, ParkedRequests { waits: 1000, watches: 0 });
    let mut times = Vec::new();
    for (number, peer) in peers.iter_mut().enumerate() {
        let name = format!("/{number}");
        register(&mut publisher, &name);
        let registered = Instant::now();
        assert_eq!(receive(peer).topic_info, Some(topic(&name, "node")));
        times.push(registered.elapsed());
    }
    times.sort_unstable();
    let (median, slowest) = (times[500], times[999]);
    report_measurement(&format!(
        "from the reply to REGISTER to the wake-up: {median:?}, slowest {slowest:?}"
    ));
    assert!(median < MAX_WAKE_LATENCY, "{median:?}");
    assert_eq!(parked_requests(&mut publisher), ParkedRequests::NONE);
}

#[test]
fn ten_thousand_waits_for_other_topics_do_not_slow_a_registration() {
    let daemon =
        DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).args(["--no-state"]).start();
    let mut publisher = daemon.raw_peer();
    let changes = |publisher: &mut RawPeer| {
        let mut times = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            register(publisher, "/x");
            unregister(publisher, "/x");
            times.push(began.elapsed());
        }
        times.sort_unstable();
        times[100]
    };
    let alone = changes(&mut publisher);
    // All on one connection, each with its own envelope.
    let mut dealer = RawPeer::connect(daemon.address()).unwrap();
    dealer.shake_hands("DEALER").unwrap();
    for number in 0..10_000_u32 {
        let body = DiscoveryRequest::wait(format!("/other/{number}"), MINUTE_MS).to_bytes();
        dealer.send(&raw_peer::message(&[&number.to_be_bytes(), b"", &body])).unwrap();
    }
    wait_until_parked(&mut publisher, ParkedRequests { waits: 10_000, watches: 0 });
    let with_waits = changes(&mut publisher);
    report_measurement(&format!("two changes: {alone:?} alone, {with_waits:?} with 10,000 waits"));
    assert!(with_waits < alone * 10 + Duration::from_millis(1), "{alone:?} {with_waits:?}");

    register(&mut publisher, "/other/4711");
    let raw_peer::Traffic::Message(frames) = dealer.read_traffic().unwrap() else {
        panic!("no message")
    };
    assert_eq!(frames[0], 4711_u32.to_be_bytes());
    assert_eq!(topic_info_name(&decode_response(&frames[2])), ["/other/4711"]);
}

fn topic_info_name(response: &DiscoveryResponse) -> Vec<&str> {
    response.topic_info.iter().map(|info| info.name.as_str()).collect()
}

#[test]
fn the_daemon_drops_parked_requests_of_peers_that_disconnect() {
    let daemon = Daemon::start();
    let mut publisher = daemon.raw_peer();
    let before = daemon.open_files();
    let since = since_of(&publisher.request(&hello()).unwrap().ext.unwrap());
    let mut peers: Vec<_> = (0..100).map(|_| daemon.raw_peer()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        let (wait, watch) = (DiscoveryRequest::wait("/x", MINUTE_MS), watch(Some(since)));
        send(peer, if number % 2 == 0 { &wait } else { &watch });
    }
    wait_until_parked(&mut publisher, ParkedRequests { waits: 50, watches: 50 });
    // One peer sends a request and disconnects before the daemon reads it.
    let mut leaving = daemon.raw_peer();
    send(&mut leaving, &DiscoveryRequest::wait("/x", MINUTE_MS));
    drop(leaving);
    drop(peers);
    wait_until_parked(&mut publisher, ParkedRequests::NONE);
    eventually("the daemon has closed the connections", TIMEOUT, || {
        (daemon.open_files() <= before).then_some(())
    });
    register(&mut publisher, "/x");
}

#[test]
fn the_daemon_answers_all_parked_requests_before_it_exits() {
    for by_signal in [true, false] {
        let daemon = Daemon::start();
        let mut publisher = daemon.raw_peer();
        let since = since_of(&publisher.request(&hello()).unwrap().ext.unwrap());
        let (mut waiting, mut watching) = (daemon.raw_peer(), daemon.raw_peer());
        send(&mut waiting, &DiscoveryRequest::wait("/x", MINUTE_MS));
        send(&mut watching, &watch(Some(since)));
        wait_until_parked(&mut publisher, ParkedRequests { waits: 1, watches: 1 });
        if by_signal {
            daemon.signal(Signal::TERM);
        } else {
            send(&mut publisher, &DiscoveryRequest::shutdown());
        }
        assert_eq!(receive(&mut waiting).status, DiscoveryStatus::NotFound);
        assert_eq!(events(&receive(&mut watching).ext.unwrap()), []);
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn the_daemon_answers_all_requests_that_it_has_read_before_it_exits() {
    let test_dir = TestDir::new();
    for address in [test_dir.address(), "tcp://127.0.0.1:0".to_owned()] {
        let builder = DaemonBuilder::at_address(&test_dir, address);
        let daemon = builder.log_level(Some("info")).start();
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.shake_hands("DEALER").unwrap();
        // The stopped daemon finds the requests and the signal at once. It reads all requests in
        // one piece, but decodes only some of them in its last ordinary round.
        stop(&daemon);
        let name = |number| format!("/{number}");
        let requests = (0..100).flat_map(|number| {
            [
                DiscoveryRequest::register(topic(&name(number), "node")),
                DiscoveryRequest::lookup(name(number)),
                DiscoveryRequest::wait("/missing", MINUTE_MS),
                DiscoveryRequest::ping(),
            ]
        });
        let bytes = requests.flat_map(|request| raw_peer::request_message(&request.to_bytes()));
        peer.send(&bytes.collect::<Vec<_>>()).unwrap();
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::CONT);
        let (mut registered, mut missing) = (0, 0);
        for _ in 0..400 {
            let reply = match peer.read_reply() {
                Ok(reply) => decode_response(&reply),
                Err(error) => panic!("{error}: {}", daemon.process().stderr_so_far()),
            };
            registered += usize::from(reply.message.starts_with("Registered topic"));
            missing += usize::from(reply.message == "Topic /missing not found");
            assert_ne!(reply.status, DiscoveryStatus::Error, "{reply:?}");
        }
        assert_eq!((registered, missing), (100, 100));
        assert_eq!(peer.read_to_close().unwrap(), b"");
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn the_daemon_answers_a_register_that_waits_before_it_exits() {
    let daemon = Daemon::start();
    let orphan = Orphan::register(&daemon, "/camera");
    let mut peer = daemon.raw_peer();
    stop(&daemon);
    send(&mut peer, &orphan.register_request("new"));
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::CONT);
    let _ = receive(&mut peer);
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_req_socket_has_one_parked_request_and_a_dealer_many() {
    let daemon = Daemon::start();
    let mut publisher = daemon.raw_peer();
    let req = ZmqPeer::new(daemon.address(), zmq::REQ, |socket| {
        socket.set_req_relaxed(true)?;
        socket.set_req_correlate(true)
    });
    req.socket().send(DiscoveryRequest::wait("/x", MINUTE_MS).to_bytes(), 0).unwrap();
    wait_until_parked(&mut publisher, ParkedRequests { waits: 1, watches: 0 });
    assert_eq!(req.request(&DiscoveryRequest::ping()).message, "pong");
    assert_eq!(parked_requests(&mut publisher), ParkedRequests::NONE, "the PING replaced the WAIT");

    let dealer = ZmqPeer::dealer(daemon.address());
    for name in ["/x", "/y", "/x"] {
        let body = DiscoveryRequest::wait(name, MINUTE_MS).to_bytes();
        dealer.send_parts(&[name.as_bytes(), b"", &body]);
    }
    dealer.send_parts(&[b"ping", b"", &DiscoveryRequest::ping().to_bytes()]);
    assert_eq!(dealer.receive_parts()[0], b"ping", "parked requests do not delay the PING");
    register(&mut publisher, "/x");
    for _ in 0..2 {
        let parts = dealer.receive_parts();
        assert_eq!(parts[0], b"/x");
        assert_eq!(decode_response(&parts[2]).topic_info, Some(topic("/x", "node")));
    }
    register(&mut publisher, "/y");
    assert_eq!(dealer.receive_parts()[0], b"/y");
}

/// Reads the reply to a CANCEL of the request with this number, which must be the next message.
fn receive_cancelled(dealer: &ZmqPeer, number: u32) -> u64 {
    let parts = dealer.receive_parts();
    assert_eq!(parts[0], number.to_be_bytes(), "a request that was given up is never answered");
    let reply = decode_response(&parts[2]);
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
    reply.ext.unwrap().cancelled.unwrap()
}

#[test]
fn ten_thousand_requests_that_come_and_go_leave_nothing() {
    const REQUESTS: u32 = 10_000;
    const AT_ONCE: u32 = 200;
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let mut publisher = daemon.raw_peer();
    let since = Some(since_of(&publisher.request(&hello()).unwrap().ext.unwrap()));
    let dealer = ZmqPeer::dealer(daemon.address());
    let cancel = DiscoveryRequest::cancel().to_bytes();
    let send = |number: u32, body: &[u8]| dealer.send_parts(&[&number.to_be_bytes(), b"", body]);
    for first in (0..REQUESTS).step_by(AT_ONCE as usize) {
        let numbers = first..first + AT_ONCE;
        for number in numbers.clone() {
            let filter = (number % 4 == 1).then(|| format!("/{number}/*"));
            let ext =
                RequestExt { filter, since, wait_ms: Some(MINUTE_MS), ..RequestExt::default() };
            let request = if number % 2 == 0 {
                DiscoveryRequest::wait(format!("/{number}"), MINUTE_MS)
            } else {
                DiscoveryRequest::watch(ext)
            };
            send(number, &request.to_bytes());
        }
        for number in numbers.clone() {
            send(number, &cancel);
        }
        for number in numbers {
            assert_eq!(receive_cancelled(&dealer, number), 1);
        }
    }
    assert_eq!(parked_requests(&mut publisher), ParkedRequests::NONE);
    register(&mut publisher, "/0");
    send(REQUESTS, &cancel);
    assert_eq!(receive_cancelled(&dealer, REQUESTS), 0, "no request was parked for this number");
    // The connection may close, so the daemon counts no unanswered request.
    drop(dealer);
    eventually("the daemon has closed the connection", TIMEOUT, || {
        let counts = publisher.request(&DiscoveryRequest::stats()).unwrap().ext.unwrap().counts;
        (counts["connections"] == 1).then_some(())
    });
}

#[test]
fn a_cancel_follows_its_request_through_the_deferred_requests() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let mut publisher = daemon.raw_peer();
    for number in 0..100 {
        let long = format!("ipc:///{}", "x".repeat(1000));
        let topic = topic_at(&format!("/{number}"), "node", &long);
        let reply = publisher.request(&register_static(topic)).unwrap();
        assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
    }
    // Each LIST with descriptions costs 100 KB, so each batch ends after a few of them.
    let mut peer = RawPeer::connect(daemon.address()).unwrap();
    peer.shake_hands("DEALER").unwrap();
    let mut bytes = Vec::new();
    for number in 0..30_u8 {
        let list = DiscoveryRequest::list().with_ext(RequestExt::default());
        let wait = DiscoveryRequest::wait("/missing", MINUTE_MS);
        for (frame, request) in
            [(b"list", list), (b"wait", wait), (b"wait", DiscoveryRequest::cancel())]
        {
            let body = request.to_bytes();
            bytes.extend(raw_peer::message(&[&frame[..], &[number], b"", &body]));
        }
    }
    peer.send(&bytes).unwrap();
    for number in 0..30_u8 {
        for (frame, topics, cancelled) in [(b"list", 100, None), (b"wait", 0, Some(1))] {
            let raw_peer::Traffic::Message(frames) = peer.read_traffic().unwrap() else {
                panic!("no message")
            };
            assert_eq!(frames[..2], [frame.to_vec(), vec![number]]);
            let reply = decode_response(&frames[3]);
            assert_eq!(reply.topics.len(), topics);
            assert_eq!(reply.ext.unwrap().cancelled, cancelled);
        }
    }
    assert_eq!(parked_requests(&mut publisher), ParkedRequests::NONE);
}

#[test]
fn no_client_of_a_proxy_ends_the_request_of_another_one() {
    let daemon = Daemon::start();
    let mut publisher = daemon.raw_peer();
    let address = format!("inproc://{}", daemon.address());
    let context = zmq::Context::new();
    let (front, back) =
        (context.socket(zmq::ROUTER).unwrap(), context.socket(zmq::DEALER).unwrap());
    front.set_linger(0).unwrap();
    back.set_linger(0).unwrap();
    front.bind(&address).unwrap();
    back.connect(daemon.address()).unwrap();
    let control = context.socket(zmq::PAIR).unwrap();
    control.bind("inproc://control").unwrap();
    let proxy_context = context.clone();
    let proxy = std::thread::spawn(move || {
        let mut control = proxy_context.socket(zmq::PAIR).unwrap();
        control.connect("inproc://control").unwrap();
        let (mut front, mut back) = (front, back);
        zmq::proxy_steerable(&mut front, &mut back, &mut control).unwrap();
    });
    let client = || ZmqPeer::in_context(&context, &address, zmq::DEALER, |_| Ok(()));
    let (first, second) = (client(), client());
    let number = 7_u32;
    let wait = DiscoveryRequest::wait("/x", MINUTE_MS).to_bytes();
    first.send_parts(&[&number.to_be_bytes(), b"", &wait]);
    wait_until_parked(&mut publisher, ParkedRequests { waits: 1, watches: 0 });
    let cancel = DiscoveryRequest::cancel().to_bytes();
    second.send_parts(&[&number.to_be_bytes(), b"", &cancel]);
    assert_eq!(receive_cancelled(&second, number), 0);
    first.send_parts(&[&number.to_be_bytes(), b"", &cancel]);
    assert_eq!(receive_cancelled(&first, number), 1);
    assert_eq!(parked_requests(&mut publisher), ParkedRequests::NONE);
    control.send("TERMINATE", 0).unwrap();
    proxy.join().unwrap();
}

/// Suspends the daemon: it finds everything that comes meanwhile at once.
fn stop(daemon: &Daemon) {
    daemon.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", daemon.process().pid().as_raw_nonzero());
    eventually("the daemon is suspended", TIMEOUT, || {
        fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())
    });
}

/// A topic whose owner was killed. Its endpoint accepts and stays silent, so the daemon cannot judge
/// it at once.
struct Orphan {
    name: &'static str,
    endpoint: PathBuf,
    _listener: UnixListener,
}

impl Orphan {
    fn register(daemon: &Daemon, name: &'static str) -> Self {
        let endpoint = daemon.test_dir().path("silent.sock");
        let listener = UnixListener::bind(&endpoint).unwrap();
        let orphan = Self { name, endpoint, _listener: listener };
        let mut command = Command::new(env!("CARGO_BIN_EXE_raw-peer"));
        command.arg(daemon.address()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut owner = Process::spawn(&mut command);
        owner.write_line(&hex::encode(&orphan.register_request("old").to_bytes()));
        owner.stdout_line("the reply to the owner", |_| Some(()));
        owner.signal(Signal::KILL);
        let _ = owner.wait();
        orphan
    }

    /// A REGISTER of this node.
    fn register_request(&self, node: &str) -> DiscoveryRequest {
        DiscoveryRequest::register(topic_at(self.name, node, &ipc_address(&self.endpoint)))
    }
}

#[test]
fn a_late_reply_to_a_register_never_answers_the_next_request() {
    let daemon = Daemon::start();
    let orphan = Orphan::register(&daemon, "/camera");
    let req = ZmqPeer::new(daemon.address(), zmq::REQ, |socket| socket.set_req_relaxed(true));
    req.socket().send(orphan.register_request("new").to_bytes(), 0).unwrap();
    let mut registers = 0;
    daemon.process().stderr_line("the second REGISTER arrives", |line| {
        registers += usize::from(line.contains("REGISTER_TOPIC"));
        (registers == 2).then_some(())
    });
    let reply = req.request(&DiscoveryRequest::wait("/other", 1500));
    assert_eq!(reply.message, "Topic /other not found");
    assert_eq!(req.request(&DiscoveryRequest::ping()).message, "pong");
    assert!(!req.receives_within(50), "a reply arrived twice");
}

#[test]
fn a_watch_continues_after_a_kill_without_gaps_or_duplicates() {
    let builder = DaemonBuilder::at(&TestDir::new());
    let daemon = builder.start();
    let mut publisher = daemon.raw_peer();
    register(&mut publisher, "/a");
    let mut watcher = daemon.raw_peer();
    send(&mut watcher, &watch(None));
    let first = receive(&mut watcher);
    assert_eq!(topic_names(&first), ["/a"]);
    let ext = first.ext.unwrap();
    assert_eq!(ext.snapshot, Some(true));
    // While no watcher is connected, a topic is unregistered, the daemon is killed and restarts,
    // and another topic is registered.
    unregister(&mut publisher, "/a");
    assert_eq!(daemon.kill().signal, Some(9));
    let daemon = builder.start();
    let mut publisher = daemon.raw_peer();
    register(&mut publisher, "/b");

    let mut watcher = daemon.raw_peer();
    send(&mut watcher, &watch(Some(since_of(&ext))));
    let ext = receive(&mut watcher).ext.unwrap();
    assert_eq!(events(&ext), [event("unregistered", "/a"), event("registered", "/b")]);
    send(&mut watcher, &watch(Some(since_of(&ext))));
    wait_until_parked(&mut publisher, ParkedRequests { waits: 0, watches: 1 });
    register(&mut publisher, "/c");
    assert_eq!(events(&receive(&mut watcher).ext.unwrap()), [event("registered", "/c")]);
}

#[test]
fn a_watch_ends_at_once_when_the_history_is_lost() {
    let test_dir = TestDir::new();
    let state = test_dir.path("state.db");
    let daemon = DaemonBuilder::at(&test_dir)
        .args(["--state".into(), state.clone().into_os_string()])
        .start();
    let mut publisher = daemon.raw_peer();
    register(&mut publisher, "/a");
    let before = since_of(&publisher.request(&hello()).unwrap().ext.unwrap());
    let mut watcher = daemon.raw_peer();
    send(&mut watcher, &watch(Some(before)));
    wait_until_parked(&mut publisher, ParkedRequests { waits: 0, watches: 1 });
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{suffix}", state.display())).unwrap();
    }
    let last = receive(&mut watcher).ext.unwrap();
    assert_eq!(events(&last), [], "the lost history has no more events");
    send(&mut watcher, &watch(Some(since_of(&last))));
    let resync = receive(&mut watcher);
    assert_eq!(topic_names(&resync), ["/a"]);
    let ext = resync.ext.unwrap();
    assert_eq!(ext.snapshot, Some(true));
    assert_ne!(ext.epoch, Some(before.epoch));
}

#[test]
fn an_eviction_event_has_a_reason() {
    let daemon = Daemon::start();
    let mut watcher = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let id = host.spawn_publisher(&PublisherSpec {
        node: "node",
        address: &format!("ipc://{}", daemon.test_dir().path("node.sock").display()),
        topics: &["/x".to_owned()],
        endpoint: Endpoint::OwnSocket,
        disconnects: false,
    });
    let publisher = host.wait_for_publisher(id);
    publisher.assert_registered();
    let since = since_of(&watcher.request(&hello()).unwrap().ext.unwrap());
    send(&mut watcher, &watch(Some(since)));
    publisher.kill();
    let killed = Instant::now();
    let ext = receive(&mut watcher).ext.unwrap();
    report_measurement(&format!(
        "the eviction event arrived {:?} after the kill",
        killed.elapsed()
    ));
    assert_eq!(events(&ext), [event("evicted", "/x")]);
    let reason = ext.events.unwrap().pop().unwrap().reason.unwrap();
    assert_eq!(reason.to_string(), "owner exited");
}

/// Waits for line `number` of the program's output, counted from 0.
fn line(program: &Process, number: usize) -> String {
    let mut seen = 0;
    program.stdout_line(&format!("line {number}"), |line| {
        seen += 1;
        (seen == number + 1).then(|| line.to_owned())
    })
}

#[test]
fn a_python_program_can_watch_with_a_plain_req_socket() {
    let builder = DaemonBuilder::at(&TestDir::new());
    let daemon = builder.start();
    let mut publisher = daemon.raw_peer();
    register(&mut publisher, "/camera/left");
    register(&mut publisher, "/lidar");
    let mut watcher = python::spawn("watcher.py", &[daemon.address(), "/camera/*"]);
    assert_eq!(line(&watcher, 0), "snapshot");
    assert_eq!(line(&watcher, 1), "present /camera/left");
    unregister(&mut publisher, "/lidar");
    register(&mut publisher, "/camera/right");
    assert_eq!(line(&watcher, 2), "registered /camera/right");
    assert_eq!(daemon.kill().signal, Some(9));
    let daemon = builder.start();
    let mut publisher = daemon.raw_peer();
    unregister(&mut publisher, "/camera/left");
    assert_eq!(line(&watcher, 3), "unregistered /camera/left unregistered");
    wait_until_parked(&mut publisher, ParkedRequests { waits: 0, watches: 1 });
    watcher.close_stdin();
    assert_eq!(watcher.wait().code, Some(0));
    wait_until_parked(&mut publisher, ParkedRequests::NONE);
}

#[test]
fn a_waiting_peer_does_not_delay_other_peers() {
    let daemon = Daemon::start();
    let mut waiting = daemon.raw_peer();
    let (began, wait_ms) = (Instant::now(), 300);
    send(&mut waiting, &DiscoveryRequest::wait("/x", wait_ms));
    daemon.raw_peer().ping().unwrap();
    assert_eq!(receive(&mut waiting).status, DiscoveryStatus::NotFound);
    assert!(began.elapsed() >= Duration::from_millis(wait_ms));
}
