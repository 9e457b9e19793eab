//! Advertised topics, with daemons that start late, are killed, lose their state or are replaced,
//! and with other nodes that register the same topic.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cortex_client::{Advertisement, ConnectError, DiscoveryClient, Error, Notice, TopicInfo};
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, EntryExt, Hold, RequestExt};
use cortex_tests::binaries::client_example;
use cortex_tests::conformance::client;
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{topic, topic_names};
use cortex_tests::process::Process;
use cortex_tests::python::ReferenceDaemon;
use cortex_tests::report_measurement;
use cortex_tests::test_dir::TestDir;
use cortex_tests::zmq_peer::ZmqPeer;
use rustix::process::{Signal, getpid};

/// The longest duration of a call that must not block, on a busy machine.
const MAX_NONBLOCKING_TIME: Duration = Duration::from_millis(500);

/// A client with the shortest timeout.
fn short_timeout_client(address: &str) -> DiscoveryClient {
    let builder = DiscoveryClient::builder().address(address);
    builder.timeout(Duration::from_millis(1)).build().unwrap()
}

fn describe(address: &str, name: &str) -> Option<(TopicInfo, EntryExt)> {
    let request = DiscoveryRequest::lookup(name).with_ext(RequestExt::default());
    let DiscoveryResponse { topic_info, ext, .. } = ZmqPeer::req(address).request(&request);
    topic_info.zip(ext.unwrap().entry)
}

fn wait_registered(advertisement: &Advertisement) {
    advertisement.wait_registered(TIMEOUT).unwrap();
}

fn is_registered_at(address: &str, name: &str) -> bool {
    match client(address).lookup_topic(name) {
        Ok(_) => true,
        Err(Error::NoSuchTopic { .. }) => false,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn wait_until_registered(address: &str, name: &str) {
    eventually(&format!("{name} is registered"), TIMEOUT, || {
        is_registered_at(address, name).then_some(())
    });
}

fn wait_until_unregistered(address: &str, name: &str) {
    eventually(&format!("{name} is unregistered"), TIMEOUT, || {
        (!is_registered_at(address, name)).then_some(())
    });
}

/// Advertises a topic and returns its notices.
fn advertise_with_notices(
    client: &DiscoveryClient,
    info: TopicInfo,
) -> (Advertisement, Receiver<Notice>) {
    let (sender, notices) = mpsc::channel();
    let advertisement = client.advertise_with(info, move |notice| {
        // The test may have dropped the receiver.
        let _ = sender.send(notice);
    });
    (advertisement.unwrap(), notices)
}

fn registered(hold: impl Into<Option<Hold>>) -> Notice {
    Notice::Registered { hold: hold.into() }
}

fn next_notice(notices: &Receiver<Notice>) -> Notice {
    notices.recv_timeout(TIMEOUT).unwrap()
}

/// Starts a node in another process.
fn start_node(address: &str, name: &str, count: usize) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_advertiser"));
    command.args([address, name, &count.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = Process::spawn(&mut command);
    process.stdout_line("the node has registered its topics", |line| {
        (line == "registered").then_some(())
    });
    process
}

/// The number of threads of a process with this name.
fn count_threads(process: &Process, name: &str) -> usize {
    let tasks = format!("/proc/{}/task", process.pid().as_raw_nonzero());
    let names = fs::read_dir(tasks).unwrap().map(|task| {
        // A thread may end meanwhile.
        fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    });
    names.filter(|found| found.trim_end() == name).count()
}

#[test]
fn a_topic_is_registered_as_soon_as_a_daemon_starts() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    let began = Instant::now();
    let camera = client.advertise(topic("/camera", "node")).unwrap();
    assert!(!camera.is_registered());
    assert!(began.elapsed() < MAX_NONBLOCKING_TIME);
    assert_eq!(camera.info(), &topic("/camera", "node"));

    let daemon = DaemonBuilder::at(&test_dir).start();
    wait_registered(&camera);
    assert!(camera.is_registered());
    let (info, entry) = describe(daemon.address(), "/camera").unwrap();
    assert_eq!(info, topic("/camera", "node"));
    assert_eq!(entry.hold, Hold::Process);
    assert_eq!(entry.pid, u64::try_from(getpid().as_raw_nonzero().get()).ok());
}

#[test]
fn without_a_daemon_advertising_reports_an_error_and_never_blocks() {
    let test_dir = TestDir::new();
    let client = short_timeout_client(&test_dir.address());
    let (camera, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    let waited = Duration::from_secs(2);
    let cause = Some(ConnectError::NoSocket);
    let no_answer = Error::NoAnswer { address: test_dir.address(), waited, attempts: 1, cause };
    assert_eq!(next_notice(&notices), Notice::Trouble(no_answer.clone()));
    assert_eq!(camera.wait_registered(Duration::ZERO), Err(no_answer));
    let began = Instant::now();
    drop(camera);
    let lidar = client.advertise(topic("/lidar", "node")).unwrap();
    assert_eq!(lidar.unregister(), Ok(()), "no daemon received the REGISTER");
    drop(client);
    assert!(began.elapsed() < MAX_NONBLOCKING_TIME);
}

#[test]
fn advertised_topics_survive_killed_daemons() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    let (camera, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    let lidar = client.advertise(topic("/lidar", "node")).unwrap();
    let mut revisions = Vec::new();
    for arguments in [&[][..], &[], &["--no-state"], &["--no-state"]] {
        let daemon = DaemonBuilder::at(&test_dir).args(arguments.iter()).start();
        assert_eq!(next_notice(&notices), registered(Hold::Process));
        wait_registered(&camera);
        wait_registered(&lidar);
        let listed = ZmqPeer::req(daemon.address()).request(&DiscoveryRequest::list());
        assert_eq!(topic_names(&listed), ["/camera", "/lidar"]);
        revisions.push(describe(daemon.address(), "/camera").unwrap().1.revision);
        let _ = daemon.kill();
        eventually("the client notices that the daemon is gone", TIMEOUT, || {
            (!camera.is_registered()).then_some(())
        });
    }
    assert_eq!(
        revisions,
        [1, 1, 1, 1],
        "registering again changes nothing at a daemon that has the topics"
    );
}

#[test]
fn advertised_topics_move_to_the_reference_daemon_and_back() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    let (camera, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    for _ in 0..2 {
        let daemon = DaemonBuilder::at(&test_dir).start();
        assert_eq!(next_notice(&notices), registered(Hold::Process));
        let _ = daemon.kill();

        let reference = ReferenceDaemon::start(&test_dir);
        assert_eq!(next_notice(&notices), registered(None));
        assert!(is_registered_at(&test_dir.address(), "/camera"));
        drop(reference);
    }
    let reference = ReferenceDaemon::start(&test_dir);
    assert_eq!(next_notice(&notices), registered(None));
    wait_registered(&camera);
    assert_eq!(camera.unregister(), Ok(()));
    assert!(!is_registered_at(&reference.address(), "/camera"));
}

#[test]
fn an_advertisement_does_not_unregister_another_nodes_topic_at_the_reference() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let client = client(&daemon.address());
    let camera = client.advertise(topic("/camera", "node")).unwrap();
    wait_registered(&camera);
    client.unregister_topic("/camera").unwrap();
    client.register_topic(&topic("/camera", "another")).unwrap();
    drop(camera);
    assert_eq!(client.lookup_topic("/camera"), Ok(topic("/camera", "another")));
}

#[test]
fn over_tcp_the_client_renews_a_session() {
    let daemon = DaemonBuilder::at(&TestDir::new()).with_tcp().start();
    let [ipc, tcp] = daemon.addresses() else { panic!("two addresses") };
    let client = client(tcp);
    let (camera, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    assert_eq!(next_notice(&notices), registered(Hold::Session));
    // The lease lasts 10 s.
    eventually("the topic is older than its lease", TIMEOUT, || {
        let (_, entry) = describe(ipc, "/camera").expect("the topic stays registered");
        assert_eq!(entry.hold, Hold::Session);
        assert_eq!(entry.revision, 1);
        (entry.age_ms > 12_000).then_some(())
    });
    assert_eq!(camera.unregister(), Ok(()));
    assert_eq!(describe(ipc, "/camera"), None);
}

#[test]
fn an_advertisement_waits_until_another_node_frees_the_topic() {
    let daemon = Daemon::start();
    let other = client(daemon.address());
    other.register_topic(&topic("/camera", "other")).unwrap();
    let client = client(daemon.address());
    let (camera, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    let Notice::Trouble(trouble) = next_notice(&notices) else {
        panic!("no trouble although another node has the topic")
    };
    let Error::AlreadyRegistered { node: Some(node), .. } = &trouble else { panic!("{trouble}") };
    assert_eq!(node, "other");
    assert_eq!(camera.wait_registered(Duration::ZERO), Err(trouble));

    other.unregister_topic("/camera").unwrap();
    assert_eq!(next_notice(&notices), registered(Hold::Process), "no other notice in between");
    assert_eq!(other.lookup_topic("/camera"), Ok(topic("/camera", "node")));
}

#[test]
fn ending_an_advertisement_unregisters_only_its_own_topic() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let camera = client.advertise(topic("/camera", "node")).unwrap();
    let lidar = client.advertise(topic("/lidar", "node")).unwrap();
    wait_registered(&camera);
    wait_registered(&lidar);
    drop(camera);
    assert!(
        !is_registered_at(daemon.address(), "/camera"),
        "the drop unregisters the topic before it returns"
    );

    client.unregister_topic("/lidar").unwrap();
    client.register_topic(&topic("/lidar", "another")).unwrap();
    assert_eq!(lidar.unregister(), Ok(()), "another node has the topic now");
    assert_eq!(client.lookup_topic("/lidar"), Ok(topic("/lidar", "another")));
}

#[test]
fn a_returning_daemon_loses_topics_whose_advertisement_ended_meanwhile() {
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at(&test_dir).start();
    let client = client(&test_dir.address());
    let camera = client.advertise(topic("/camera", "node")).unwrap();
    let lidar = client.advertise(topic("/lidar", "node")).unwrap();
    wait_registered(&camera);
    wait_registered(&lidar);
    let _ = daemon.kill();
    eventually("the client notices that the daemon is gone", TIMEOUT, || {
        (!camera.is_registered()).then_some(())
    });
    let began = Instant::now();
    drop(camera);
    assert!(matches!(lidar.unregister(), Err(Error::NoAnswer { .. })));
    assert!(began.elapsed() < MAX_NONBLOCKING_TIME);

    let daemon = DaemonBuilder::at(&test_dir).start();
    wait_until_unregistered(daemon.address(), "/camera");
    wait_until_unregistered(daemon.address(), "/lidar");
    drop(client);
}

#[test]
fn an_unregistered_topic_is_advertised_again() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let camera = client.advertise(topic("/camera", "node")).unwrap();
    wait_registered(&camera);
    client.unregister_topic("/camera").unwrap();
    let unregistered = Instant::now();
    wait_until_registered(daemon.address(), "/camera");
    report_measurement(&format!(
        "an unregistered topic was registered again after {:?}",
        unregistered.elapsed()
    ));
}

#[test]
fn a_stopped_daemon_does_not_block_advertising() {
    let daemon = Daemon::start();
    let client = short_timeout_client(daemon.address());
    let (camera, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    assert_eq!(next_notice(&notices), registered(Hold::Process));
    daemon.signal(Signal::STOP);
    let began = Instant::now();
    let lidar = client.advertise(topic("/lidar", "node")).unwrap();
    assert!(camera.is_registered() && !lidar.is_registered());
    assert!(began.elapsed() < MAX_NONBLOCKING_TIME);
    let began = Instant::now();
    drop(lidar);
    assert!(began.elapsed() < Duration::from_secs(1) + MAX_NONBLOCKING_TIME);

    assert!(matches!(next_notice(&notices), Notice::Trouble(Error::NoAnswer { .. })));
    let began = Instant::now();
    assert!(matches!(camera.unregister(), Err(Error::NoAnswer { .. })));
    assert!(began.elapsed() < MAX_NONBLOCKING_TIME);
    daemon.signal(Signal::CONT);
    wait_until_unregistered(daemon.address(), "/camera");
    assert!(!is_registered_at(daemon.address(), "/lidar"));
}

#[test]
fn the_last_advertisement_of_a_topic_replaces_earlier_ones() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let (first, notices) = advertise_with_notices(&client, topic("/camera", "node"));
    assert_eq!(next_notice(&notices), registered(Hold::Process));
    let moved = TopicInfo { address: "ipc:///run/moved.sock".into(), ..topic("/camera", "node") };
    let second = client.advertise(moved.clone()).unwrap();
    wait_registered(&second);
    assert_eq!(next_notice(&notices), Notice::Replaced);
    assert!(matches!(first.wait_registered(TIMEOUT), Err(Error::Replaced { .. })));
    drop(first);
    assert!(second.is_registered());
    assert_eq!(client.lookup_topic("/camera"), Ok(moved));
    let third = client.advertise(topic("/camera", "another")).unwrap();
    wait_registered(&third);
    drop(second);
    assert_eq!(client.lookup_topic("/camera"), Ok(topic("/camera", "another")));
}

#[test]
fn a_callback_may_panic_and_may_end_advertisements() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let panicking =
        client.advertise_with(topic("/panics", "node"), |_| panic!("the callback panics")).unwrap();
    wait_registered(&panicking);

    let other = client.advertise(topic("/other", "node")).unwrap();
    wait_registered(&other);
    let slot = Arc::new(Mutex::new(Some(other)));
    let (sender, durations) = mpsc::channel();
    let ending = client
        .advertise_with(topic("/ends", "node"), move |_| {
            let began = Instant::now();
            drop(slot.lock().unwrap().take());
            sender.send(began.elapsed()).unwrap();
        })
        .unwrap();
    let took = durations.recv_timeout(TIMEOUT).unwrap();
    assert!(took < MAX_NONBLOCKING_TIME, "{took:?}: the drop does not wait for its own thread");
    wait_until_unregistered(daemon.address(), "/other");
    wait_registered(&ending);
    assert!(panicking.is_registered() && is_registered_at(daemon.address(), "/panics"));
}

#[test]
fn an_advertisement_outlives_its_client_and_may_move_to_another_thread() {
    let daemon = Daemon::start();
    let camera = client(daemon.address()).advertise(topic("/camera", "node")).unwrap();
    std::thread::spawn(move || {
        wait_registered(&camera);
        camera
    })
    .join()
    .unwrap()
    .unregister()
    .unwrap();
    assert!(!is_registered_at(daemon.address(), "/camera"));
}

#[test]
fn a_thousand_advertisements_need_one_thread_and_end_with_their_process() {
    let daemon = Daemon::start();
    let began = Instant::now();
    let node = start_node(daemon.address(), "node", 1000);
    report_measurement(&format!("1,000 topics were registered after {:?}", began.elapsed()));
    assert_eq!(count_threads(&node, "cortex-client"), 1);
    let client = client(daemon.address());
    assert_eq!(client.list_topics().unwrap().len(), 1000);
    node.signal(Signal::KILL);
    eventually("the daemon has evicted the topics", TIMEOUT, || {
        client.list_topics().unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_node_that_exits_unregisters_its_topics() {
    let daemon = Daemon::start();
    let mut node = start_node(daemon.address(), "node", 3);
    node.close_stdin();
    let output = node.wait();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(client(daemon.address()).list_topics(), Ok(Vec::new()));
}

#[test]
fn the_advertise_example_survives_killed_daemons() {
    let test_dir = TestDir::new();
    let mut command = Command::new(client_example("advertise"));
    command.arg(test_dir.address());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut example = Process::spawn(&mut command);
    for _ in 0..2 {
        let daemon = DaemonBuilder::at(&test_dir).args(["--no-state"]).start();
        wait_until_registered(daemon.address(), "/camera/image");
        let _ = daemon.kill();
    }
    let daemon = DaemonBuilder::at(&test_dir).start();
    wait_until_registered(daemon.address(), "/camera/image");
    example.close_stdin();
    assert_eq!(example.wait().code, Some(0));
    assert!(!is_registered_at(daemon.address(), "/camera/image"));
}
