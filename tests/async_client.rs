//! Our asynchronous client: concurrent calls on one connection, with daemons that reply late, not
//! at all or unreadably, exit and restart.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::future::{Future, poll_fn};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use cortex_client::{
    AsyncDiscoveryClient, AsyncWatch, ConnectError, Error, EventKind, TopicInfo, UnreadableReply,
    WatchEvent,
};
use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestedCommand,
};
use cortex_tests::clients::block_on;
use cortex_tests::conformance::{
    check_every_async_client_call, check_every_async_client_call_without_a_runtime,
};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{QUIET_PERIOD, TIMEOUT, eventually_async};
use cortex_tests::messages::topic;
use cortex_tests::python::ReferenceDaemon;
use cortex_tests::report_measurement;
use cortex_tests::scripted_daemon::{Request, ScriptedDaemon};
use cortex_tests::test_dir::TestDir;
use futures_core::Stream as _;
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{self, MissedTickBehavior};

/// Long enough for a reply on a busy machine, and short enough for tests in which no reply comes.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

fn client_with(address: &str, timeout: Duration, retries: u32) -> AsyncDiscoveryClient {
    let builder = AsyncDiscoveryClient::builder().address(address);
    builder.timeout(timeout).retries(retries).build_async().unwrap()
}

fn client(address: &str) -> AsyncDiscoveryClient {
    client_with(address, TIMEOUT, 0)
}

fn is_no_answer<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NoAnswer { .. }))
}

fn topic_reply(name: &str) -> Vec<u8> {
    let topic_info = Some(topic(name, "node"));
    DiscoveryResponse { topic_info, ..DiscoveryResponse::new(DiscoveryStatus::Ok, "") }.to_bytes()
}

fn status_reply(status: DiscoveryStatus, message: &str) -> Vec<u8> {
    DiscoveryResponse::new(status, message).to_bytes()
}

/// The topic name in a request.
fn requested_topic(request: &Request) -> String {
    DiscoveryRequest::from_bytes(&request.body).unwrap().topic_name.unwrap_or_default()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn every_call_works_with_our_daemon() {
    for check in [check_every_async_client_call, check_every_async_client_call_without_a_runtime] {
        for daemon in [Daemon::start(), Daemon::start_tcp_with_remote_shutdown()] {
            check(daemon.address());
            assert_eq!(daemon.wait().code, Some(0));
        }
    }
}

#[test]
fn every_call_works_with_the_reference_daemon() {
    for check in [check_every_async_client_call, check_every_async_client_call_without_a_runtime] {
        let daemon = ReferenceDaemon::start(&TestDir::new());
        check(&daemon.address());
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn clients_and_their_calls_can_move_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn sent(_: &impl Send) {}
    shared::<AsyncDiscoveryClient>();

    let runtime = current_thread();
    let _entered = runtime.enter();
    let client = client(&TestDir::new().address());
    let info = topic("/x", "node");
    sent(&client.register_topic(&info));
    sent(&client.unregister_topic("/x"));
    sent(&client.lookup_topic("/x"));
    sent(&client.wait_for_topic("/x", TIMEOUT));
    sent(&client.list_topics());
    sent(&client.ping());
    sent(&client.hello());
    sent(&client.describe("/x"));
    sent(&client.describe_all());
    sent(&client.stats());
    sent(&client.shutdown());
}

#[tokio::test]
async fn building_a_client_rejects_an_invalid_address() {
    for address in ["", "nonsense", "ipc", "tcp://127.0.0.1", "udp+x://y", "ipc:///a\0b"] {
        let built = AsyncDiscoveryClient::connect(address).map(drop);
        let Err(Error::InvalidAddress { address: in_error, .. }) = built else {
            panic!("{address}: {built:?}")
        };
        assert_eq!(in_error, address);
    }
}

#[tokio::test]
async fn a_missing_daemon_is_an_error_with_its_address_and_the_waiting_time() {
    let address = TestDir::new().address();
    let timeout = Duration::from_millis(50);
    let client = client_with(&address, timeout, 2);
    // The client finds out on another thread why it cannot connect.
    eventually_async("the client knows the cause", || {
        let pinged = block_on(client.ping());
        matches!(pinged, Err(Error::NoAnswer { cause: Some(ConnectError::NoSocket), .. }))
    })
    .await;
    let no_answer = |attempts| {
        let (address, waited) = (address.clone(), timeout * attempts);
        Error::NoAnswer { address, waited, attempts, cause: Some(ConnectError::NoSocket) }
    };
    let info = topic("/x", "n");
    let (pinged, listed, found, registered, unregistered, shut_down, waited) = tokio::join!(
        client.ping(),
        client.list_topics(),
        client.lookup_topic("/x"),
        client.register_topic(&info),
        client.unregister_topic("/x"),
        client.shutdown(),
        client.wait_for_topic("/x", timeout),
    );
    assert_eq!(pinged, Err(no_answer(3)));
    assert_eq!(listed, Err(no_answer(3)));
    assert_eq!(found, Err(no_answer(3)));
    assert_eq!(registered, Err(no_answer(3)));
    assert_eq!(unregistered, Err(no_answer(3)));
    assert_eq!(shut_down, Err(no_answer(1)), "a SHUTDOWN has one attempt");
    assert!(is_no_answer(&waited), "{waited:?}");
}

#[tokio::test]
async fn a_client_with_a_zero_timeout_sends_nothing() {
    let daemon = Daemon::start();
    let client = client_with(daemon.address(), Duration::ZERO, 3);
    for _ in 0..100 {
        assert!(is_no_answer(&client.register_topic(&topic("/x", "n")).await));
    }
    assert_eq!(self::client(daemon.address()).list_topics().await, Ok(Vec::new()));
}

/// On an idle machine the required time is 250 ms.
#[tokio::test]
async fn timers_are_on_time_while_five_requests_wait_for_a_missing_daemon() {
    let client = client_with(&TestDir::new().address(), SHORT_TIMEOUT, 0);
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.ping().await })
        })
        .collect();
    let worst = worst_timer_delay(async {
        for call in calls {
            assert!(is_no_answer(&call.await.unwrap()));
        }
    })
    .await;
    report_measurement(&format!("a 10 ms timer was late by {worst:?} at worst"));
    // A call that blocks the runtime until its timeout would exceed this.
    assert!(worst < SHORT_TIMEOUT * 9 / 10, "{worst:?}");
}

/// The largest delay of a timer of 10 ms while `work` runs.
async fn worst_timer_delay(work: impl Future<Output = ()>) -> Duration {
    let mut work = pin!(work);
    let mut timer = time::interval(Duration::from_millis(10));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut worst = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            due = timer.tick() => worst = worst.max(due.elapsed()),
            () = &mut work => return worst,
        }
    }
}

/// Registers `count` topics concurrently on one connection, then looks all of them up.
async fn register_and_look_up_all(client: &AsyncDiscoveryClient, count: usize) {
    let mut registering = JoinSet::new();
    for number in 0..count {
        let client = client.clone();
        registering.spawn(async move {
            client.register_topic(&topic(&format!("/topic/{number}"), "node")).await
        });
    }
    while let Some(registered) = registering.join_next().await {
        registered.unwrap().unwrap();
    }
    look_up_all(client, count).await;
}

/// Looks up `count` topics concurrently and checks that each call gets its own reply.
async fn look_up_all(client: &AsyncDiscoveryClient, count: usize) {
    let mut calls = JoinSet::new();
    for number in 0..count {
        let client = client.clone();
        calls.spawn(async move {
            let name = format!("/topic/{number}");
            assert_eq!(client.lookup_topic(&name).await, Ok(topic(&name, "node")));
        });
    }
    calls.join_all().await;
}

#[tokio::test]
async fn one_connection_carries_a_thousand_concurrent_requests() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    wait_for_connections(&client, 1).await;
    let began = Instant::now();
    let worst = worst_timer_delay(register_and_look_up_all(&client, 1000)).await;
    let took = began.elapsed();
    report_measurement(&format!(
        "2,000 requests took {took:?}; a 10 ms timer was late by {worst:?}"
    ));
    assert_eq!(connections(&client).await, 1);
    assert!(worst < Duration::from_millis(2500), "{worst:?}");
    let other = self::client(daemon.address());
    drop(client);
    wait_for_connections(&other, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_connection_to_the_reference_carries_a_thousand_concurrent_requests() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    register_and_look_up_all(&client(&daemon.address()), 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_requests_from_many_threads_miss_no_wake_up() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    let mut calls = JoinSet::new();
    for asker in 0..32_usize {
        let client = client.clone();
        calls.spawn(async move {
            // The tasks yield at different times, so that requests overlap in many ways.
            for round in 0..200 {
                if (asker + round) % 7 == 0 {
                    tokio::task::yield_now().await;
                }
                client.ping().await.unwrap();
            }
        });
    }
    calls.join_all().await;
}

#[tokio::test]
async fn consecutive_requests_miss_no_wake_up() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    let began = Instant::now();
    for _ in 0..5000 {
        client.ping().await.unwrap();
    }
    report_measurement(&format!("a round trip takes {:?}", began.elapsed() / 5000));
}

#[tokio::test]
async fn replies_in_any_order_reach_the_right_calls() {
    let mut delayed = Vec::new();
    let daemon = ScriptedDaemon::start(move |request| {
        delayed.push(request);
        if delayed.len() < 100 {
            return Vec::new();
        }
        delayed
            .drain(..)
            .rev()
            .map(|request| request.reply(topic_reply(&requested_topic(&request))))
            .collect()
    });
    let client = client(&daemon.address());
    look_up_all(&client, 100).await;
}

#[tokio::test]
async fn late_replies_to_timed_out_or_dropped_calls_are_discarded() {
    let mut delayed: Vec<Request> = Vec::new();
    let daemon = ScriptedDaemon::start(move |request| {
        if requested_topic(&request) == "/late" {
            delayed.push(request);
            return Vec::new();
        }
        let late = delayed.drain(..).map(|late| late.reply(topic_reply("/late")));
        late.chain([request.reply(topic_reply("/wanted"))]).collect()
    });
    let client = client_with(&daemon.address(), SHORT_TIMEOUT, 0);
    for _ in 0..3 {
        assert!(is_no_answer(&client.lookup_topic("/late").await));
        assert_eq!(client.lookup_topic("/wanted").await, Ok(topic("/wanted", "node")));
        let dropped = time::timeout(Duration::from_millis(50), client.lookup_topic("/late")).await;
        assert!(dropped.is_err());
        assert_eq!(client.lookup_topic("/wanted").await, Ok(topic("/wanted", "node")));
    }
}

#[tokio::test]
async fn the_first_attempt_does_not_count_as_a_retry() {
    for (answered, retries, expected) in [(2, 0, false), (3, 2, true), (3, 1, false)] {
        let mut received = 0;
        let daemon = ScriptedDaemon::start(move |request| {
            received += 1;
            let pong = (received == answered)
                .then(|| request.reply(status_reply(DiscoveryStatus::Ok, "pong")));
            pong.into_iter().collect()
        });
        let pinged = client_with(&daemon.address(), SHORT_TIMEOUT, retries).ping().await;
        assert_eq!(pinged.is_ok(), expected, "{pinged:?}");
        assert_eq!(is_no_answer(&pinged), !expected, "{pinged:?}");
    }
}

#[tokio::test]
async fn an_unregister_whose_first_reply_was_lost_succeeds() {
    let mut received = 0;
    let daemon = ScriptedDaemon::start(move |request| {
        received += 1;
        let missing = status_reply(DiscoveryStatus::NotFound, "Topic /x not found");
        (received % 2 == 0).then(|| request.reply(missing)).into_iter().collect()
    });
    assert_eq!(
        client_with(&daemon.address(), SHORT_TIMEOUT, 1).unregister_topic("/x").await,
        Ok(())
    );
}

#[tokio::test]
async fn an_unreadable_reply_fails_only_its_own_call() {
    let daemon = ScriptedDaemon::start(|mut request| {
        let found = topic_reply(&requested_topic(&request));
        match requested_topic(&request).as_str() {
            "/nonsense" => vec![request.reply("nonsense")],
            "/parts" => {
                request.envelope.push(found);
                vec![request.reply("and more")]
            }
            "/envelopes" => {
                let mut replies = Vec::new();
                let good = request.envelope.clone();
                for number in [&b""[..], b"7", &[0xff; 8], &[0xff; 9], &[0; 300]] {
                    request.envelope[1] = number.to_vec();
                    replies.push(request.reply(found.clone()));
                }
                // One reply without a delimiter, and one without a body.
                request.envelope.truncate(2);
                request.envelope[1].clone_from(&good[1]);
                replies.push(request.reply(found.clone()));
                replies.push(request.reply(""));
                request.envelope = good;
                replies.push(request.reply(found));
                replies
            }
            _ => vec![request.reply(found)],
        }
    });
    let client = client(&daemon.address());
    let (nonsense, parts, envelopes, good) = tokio::join!(
        client.lookup_topic("/nonsense"),
        client.lookup_topic("/parts"),
        client.lookup_topic("/envelopes"),
        client.lookup_topic("/good"),
    );
    assert!(matches!(nonsense, Err(Error::Unreadable(UnreadableReply::Decode(_)))), "{nonsense:?}");
    assert_eq!(parts, Err(Error::Unreadable(UnreadableReply::Parts { count: 2 })));
    assert_eq!(envelopes, Ok(topic("/envelopes", "node")));
    assert_eq!(good, Ok(topic("/good", "node")));
}

#[tokio::test]
async fn a_daemon_that_starts_later_does_not_receive_abandoned_registers() {
    let test_dir = TestDir::new();
    let client = client_with(&test_dir.address(), Duration::from_millis(100), 1);
    assert!(is_no_answer(&client.register_topic(&topic("/timed/out", "node")).await));
    let dropped = topic("/dropped", "node");
    let dropped = time::timeout(Duration::from_millis(50), client.register_topic(&dropped)).await;
    assert!(dropped.is_err());
    // A server accepts the connection and never replies.
    let silent = UnixListener::bind(test_dir.socket()).unwrap();
    assert!(is_no_answer(&client.register_topic(&topic("/silent", "node")).await));
    let taken = silent.accept().unwrap();
    assert!(is_no_answer(&client.register_topic(&topic("/taken", "node")).await));
    drop((silent, taken));

    let daemon = DaemonBuilder::at(&test_dir).start();
    let patient = self::client(daemon.address());
    wait_for_daemon(&client).await;
    assert_eq!(patient.list_topics().await, Ok(Vec::new()));
}

/// Sends PINGs until a daemon answers: the timeout of one call may be too short.
async fn wait_for_daemon(client: &AsyncDiscoveryClient) {
    let reached = async { while client.ping().await.is_err() {} };
    time::timeout(TIMEOUT, reached).await.unwrap();
}

#[tokio::test]
async fn dropped_futures_leave_nothing_behind() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    drop_many_calls(&client).await;
    let daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
    drop_many_calls(&client).await;
    let names = client.list_topics().await.unwrap();
    assert!(names.len() <= 1, "{names:?}");
    let _ = daemon.kill();
    drop_many_calls(&client).await;
    let _daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
    client.ping().await.unwrap();
}

async fn drop_many_calls(client: &AsyncDiscoveryClient) {
    let info = topic("/dropped", "node");
    for _ in 0..2000 {
        tokio::select! {
            biased;
            _ = client.register_topic(&info) => {}
            _ = client.ping() => {}
            _ = client.wait_for_topic("/x", TIMEOUT) => {}
            () = tokio::task::yield_now() => {}
        }
    }
}

#[tokio::test]
async fn shutdown_always_gets_its_reply_before_the_daemon_exits() {
    for _ in 0..20 {
        let daemon = Daemon::start();
        let client = client(daemon.address());
        assert_eq!(client.shutdown().await, Ok(()));
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[tokio::test]
async fn a_shutdown_whose_reply_is_lost_does_not_stop_the_next_daemon() {
    let test_dir = TestDir::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let first = ScriptedDaemon::start_at(&test_dir, move |request| {
        sender.send(request.body).unwrap();
        Vec::new()
    });
    let client = client_with(&test_dir.address(), SHORT_TIMEOUT, 1);
    let ending = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown().await }
    });
    let body = tokio::task::spawn_blocking(move || receiver.recv_timeout(TIMEOUT)).await;
    let request = DiscoveryRequest::from_bytes(&body.unwrap().unwrap()).unwrap();
    assert_eq!(request.command, RequestedCommand::Known(DiscoveryCommand::Shutdown));
    drop(first);
    let daemon = DaemonBuilder::at(&test_dir).start();
    let lost = Error::Disconnected { address: test_dir.address() };
    assert_eq!(ending.await.unwrap(), Err(lost));
    wait_for_daemon(&client).await;
    daemon.assert_serves();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_waits_survive_restarts_of_a_killed_daemon() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    let mut waiting = JoinSet::new();
    for number in 0..50 {
        let client = client.clone();
        waiting.spawn(async move {
            client.wait_for_topic(&format!("/awaited/{number}"), TIMEOUT).await.unwrap()
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let pings = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (client, stop, pings) = (client.clone(), Arc::clone(&stop), Arc::clone(&pings));
        calls.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.ping().await.unwrap();
                pings.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for _ in 0..4 {
        let daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
        let before = pings.load(Ordering::Relaxed);
        eventually_async("the daemon has answered 100 more PINGs", || {
            pings.load(Ordering::Relaxed) >= before + 100
        })
        .await;
        let _ = daemon.kill();
    }
    let _daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
    for number in 0..50 {
        client.register_topic(&topic(&format!("/awaited/{number}"), "node")).await.unwrap();
    }
    assert_eq!(waiting.join_all().await.len(), 50);
    stop.store(true, Ordering::Relaxed);
    calls.join_all().await;
}

#[tokio::test]
async fn a_parked_wait_is_parked_again_as_soon_as_a_killed_daemon_restarts() {
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at(&test_dir).start();
    let client = client(&test_dir.address());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait_for_topic("/x", TIMEOUT).await }
    });
    wait_for_parked_waits(&client, 1).await;
    let _ = daemon.kill();
    let _daemon = DaemonBuilder::at(&test_dir).start();
    wait_for_parked_waits(&client, 1).await;
    let began = Instant::now();
    client.register_topic(&topic("/x", "node")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(topic("/x", "node")));
    report_measurement(&format!("from REGISTER to the end of the wait: {:?}", began.elapsed()));
}

async fn wait_for_parked_waits(client: &AsyncDiscoveryClient, wanted: u64) {
    wait_for_counter(client, "waits", wanted).await;
}

/// The number of connections that the daemon has.
async fn connections(client: &AsyncDiscoveryClient) -> u64 {
    client.stats().await.unwrap()["connections"]
}

async fn wait_for_connections(client: &AsyncDiscoveryClient, wanted: u64) {
    wait_for_counter(client, "connections", wanted).await;
}

async fn wait_for_counter(client: &AsyncDiscoveryClient, what: &str, wanted: u64) {
    let counting = async { while client.stats().await.unwrap()[what] != wanted {} };
    time::timeout(TIMEOUT, counting).await.unwrap_or_else(|_| panic!("not {wanted} {what}"));
}

#[tokio::test]
async fn a_wait_that_timed_out_is_no_longer_parked() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let waited = Duration::from_millis(200);
    let over = client.wait_for_topic("/x", waited).await;
    assert_eq!(over, Err(Error::WaitTimedOut { topic: "/x".into(), waited }));
    wait_for_parked_waits(&client, 0).await;
}

#[tokio::test]
async fn a_thousand_waits_on_one_connection_each_return_their_topic() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    let mut waiting = JoinSet::new();
    for number in 0..1000 {
        let client = client.clone();
        waiting.spawn(async move {
            let name = format!("/topic/{number}");
            assert_eq!(client.wait_for_topic(&name, TIMEOUT).await, Ok(topic(&name, "node")));
        });
    }
    wait_for_parked_waits(&client, 1000).await;
    for number in (0..1000).rev() {
        client.register_topic(&topic(&format!("/topic/{number}"), "node")).await.unwrap();
    }
    waiting.join_all().await;
}

#[tokio::test]
async fn a_wait_polls_the_reference_daemon() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let builder = AsyncDiscoveryClient::builder().address(daemon.address()).timeout(TIMEOUT);
    let client = builder.poll_interval(Duration::from_millis(20)).build_async().unwrap();
    let (waited, registered) = tokio::join!(client.wait_for_topic("/x", TIMEOUT), async {
        client.ping().await.unwrap();
        client.register_topic(&topic("/x", "node")).await
    },);
    assert_eq!((waited, registered), (Ok(topic("/x", "node")), Ok(())));
}

#[test]
fn calls_survive_the_runtime_on_which_the_client_was_made() {
    let daemon = Daemon::start();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let client = client_with(daemon.address(), SHORT_TIMEOUT, 0);
        client.ping().await.unwrap();
        client
    });
    drop(runtime);
    block_on(client.ping()).unwrap();
    let waited = Duration::from_millis(100);
    let over = block_on(client.wait_for_topic("/x", waited));
    assert_eq!(over, Err(Error::WaitTimedOut { topic: "/x".into(), waited }));
    let _ = daemon.kill();
    assert!(is_no_answer(&block_on(client.ping())));
}

#[tokio::test]
async fn the_largest_timeout_and_retry_count_work() {
    let daemon = Daemon::start();
    client_with(daemon.address(), Duration::MAX, u32::MAX).ping().await.unwrap();
}

#[tokio::test]
async fn a_client_reconnects_slowly_to_a_server_that_closes_connections_at_once() {
    let test_dir = TestDir::new();
    let listener = UnixListener::bind(test_dir.socket()).unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    thread::spawn(move || {
        while listener.accept().is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let client = client_with(&test_dir.address(), SHORT_TIMEOUT, 0);
    assert!(is_no_answer(&client.ping().await));
    let taken = taken.load(Ordering::Relaxed);
    assert!((2..20).contains(&taken), "{taken} connections within a second");
}

/// A TCP proxy that can stall its connections.
struct Proxy {
    address: String,
    generation: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(to: &str) -> Self {
        let to = to.strip_prefix("tcp://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let generation = Arc::new(AtomicUsize::new(0));
        let current = Arc::clone(&generation);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let far = TcpStream::connect(&to).unwrap();
                let own_generation = current.load(Ordering::SeqCst);
                for (mut from, mut to) in
                    [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    let current = Arc::clone(&current);
                    thread::spawn(move || {
                        let mut buffer = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            if current.load(Ordering::SeqCst) == own_generation
                                && to.write_all(&buffer[..count]).is_err()
                            {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Self { address, generation }
    }

    /// Stalls all present connections: they stay open and forward nothing.
    fn stall_connections(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_client_replaces_a_stalled_connection() {
    let daemon = Daemon::start_tcp();
    let proxy = Proxy::start(daemon.address());
    let hasty = client_with(&proxy.address, SHORT_TIMEOUT, 0);
    let persistent = client_with(&proxy.address, SHORT_TIMEOUT, 1);
    for _ in 0..3 {
        hasty.ping().await.unwrap();
        persistent.ping().await.unwrap();
        proxy.stall_connections();
        let (alone, repeated) = tokio::join!(hasty.ping(), persistent.ping());
        assert!(is_no_answer(&alone), "{alone:?}");
        assert_eq!(repeated, Ok(()), "the second attempt uses a new connection");
    }
}

/// A request without a reply must not cost other requests their connection.
#[tokio::test]
async fn a_client_keeps_a_connection_on_which_other_calls_get_replies() {
    let connections = Arc::new(AtomicUsize::new(0));
    let received = Arc::clone(&connections);
    let mut peers = std::collections::HashSet::new();
    let daemon = ScriptedDaemon::start(move |request| {
        if peers.insert(request.envelope[0].clone()) {
            received.fetch_add(1, Ordering::Relaxed);
        }
        let name = requested_topic(&request);
        if name == "/never" { Vec::new() } else { vec![request.reply(topic_reply(&name))] }
    });
    let client = client_with(&daemon.address(), SHORT_TIMEOUT, 0);
    let never = async {
        for _ in 0..2 {
            assert!(is_no_answer(&client.lookup_topic("/never").await));
        }
    };
    let mut never = pin!(never);
    let mut ticks = time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            _ = ticks.tick() => drop(client.lookup_topic("/x").await.unwrap()),
            () = &mut never => break,
        }
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_dropped_client_leaves_no_connection() {
    let daemon = Daemon::start();
    let first = client(daemon.address());
    first.ping().await.unwrap();
    wait_for_connections(&first, 1).await;
    let clients: Vec<_> = (0..10).map(|_| client(daemon.address())).collect();
    for client in &clients {
        client.clone().ping().await.unwrap();
    }
    assert_eq!(connections(&first).await, 11);
    drop(clients);
    wait_for_connections(&first, 1).await;
}

#[tokio::test]
async fn thousands_of_requests_wait_until_a_daemon_starts() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    let mut calls = JoinSet::new();
    for number in 0..5000 {
        let client = client.clone();
        let info = TopicInfo { fingerprint: number, ..topic("/x", "node") };
        calls.spawn(async move { client.register_topic(&info).await });
    }
    assert!(time::timeout(QUIET_PERIOD, calls.join_next()).await.is_err(), "no daemon answers yet");
    let _daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
    while let Some(registered) = calls.join_next().await {
        registered.unwrap().unwrap();
    }
    assert_eq!(
        client.lookup_topic("/x").await.unwrap().fingerprint,
        4999,
        "the client sends requests in order"
    );
}

/// The topics according to the events of a watch.
#[derive(Debug, Default, PartialEq)]
struct TopicView {
    topics: Vec<TopicInfo>,
    revision: Option<u64>,
    resyncs: usize,
}

impl TopicView {
    fn apply(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot { topics, revision, is_resync } => {
                self.resyncs += usize::from(is_resync);
                (self.topics, self.revision) = (topics, revision);
            }
            WatchEvent::Changed(change) => {
                assert!(
                    change.revision.is_none() || change.revision > self.revision,
                    "the watch repeats an event"
                );
                self.revision = change.revision;
                let known = self.topics.iter().position(|topic| topic.name == change.info.name);
                match (change.kind, known) {
                    (EventKind::Registered, None) => self.topics.push(change.info),
                    (EventKind::Updated, Some(at)) => self.topics[at] = change.info,
                    (EventKind::Unregistered | EventKind::Evicted, Some(at)) => {
                        self.topics.remove(at);
                    }
                    (kind, known) => panic!("{kind} of the topic at {known:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    async fn follow(&mut self, watch: &mut AsyncWatch, is_wanted: impl Fn(&Self) -> bool) {
        let following = async {
            while !is_wanted(self) {
                self.apply(watch.next_event().await.unwrap());
            }
        };
        time::timeout(TIMEOUT, following).await.expect("the watch reports the change");
    }
}

#[tokio::test]
async fn a_watch_reports_a_snapshot_and_all_changes_through_restarts() {
    let test_dir = TestDir::new();
    let mut daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
    let client = client(&test_dir.address());
    client.register_topic(&topic("/present", "node")).await.unwrap();
    let mut watch = client.watch(None).unwrap();
    let mut view = TopicView::default();
    view.follow(&mut watch, |view| view.topics == [topic("/present", "node")]).await;
    for round in 0..3 {
        let info = TopicInfo { fingerprint: round, ..topic("/x", "node") };
        client.register_topic(&topic("/x", "node")).await.unwrap();
        client.register_topic(&info).await.unwrap();
        let _ = daemon.kill();
        daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
        view.follow(&mut watch, |view| view.topics.contains(&info)).await;
        client.unregister_topic("/x").await.unwrap();
        view.follow(&mut watch, |view| view.topics.len() == 1).await;
        assert_eq!(watch.trouble(), None);
    }
    assert_eq!(view.resyncs, 0, "the daemon keeps its history");
}

#[tokio::test]
async fn watches_and_requests_share_a_connection() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    wait_for_connections(&client, 1).await;
    let mut watching = JoinSet::new();
    for number in 0..100 {
        let mut watch = client.watch(Some(&format!("/topic/{number}/**"))).unwrap();
        watching.spawn(async move {
            let mut view = TopicView::default();
            view.follow(&mut watch, |view| view.topics.len() == 2).await;
        });
    }
    wait_for_counter(&client, "watches", 100).await;
    for number in 0..200 {
        let name = format!("/topic/{}/{number}", number % 100);
        client.register_topic(&topic(&name, "node")).await.unwrap();
    }
    watching.join_all().await;
    assert_eq!(connections(&client).await, 1);
}

/// A consumer that drops the future of each event loses no event and gets none twice.
#[tokio::test]
async fn a_watch_whose_futures_are_dropped_loses_no_event() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    let mut watch = client.watch(Some("/x/*")).unwrap();
    let mut view = TopicView::default();
    let registering = async {
        for number in 0..300 {
            client.register_topic(&topic(&format!("/x/{number}"), "node")).await.unwrap();
        }
    };
    let mut registering = pin!(registering);
    let mut is_registered = false;
    let following = async {
        while view.topics.len() < 300 {
            tokio::select! {
                biased;
                () = &mut registering, if !is_registered => is_registered = true,
                event = watch.next_event() => view.apply(event.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
    };
    time::timeout(TIMEOUT, following).await.unwrap();
    assert_eq!(Ok(view.topics), client.list_topics().await);
}

#[tokio::test]
async fn a_watch_at_the_reference_daemon_compares_lists() {
    let test_dir = TestDir::new();
    let daemon = ReferenceDaemon::start(&test_dir);
    let builder = AsyncDiscoveryClient::builder().address(daemon.address()).timeout(TIMEOUT);
    let client = builder.poll_interval(Duration::from_millis(20)).build_async().unwrap();
    let mut watch = client.watch(Some("/x*")).unwrap();
    let mut view = TopicView::default();
    client.register_topic(&topic("/y", "node")).await.unwrap();
    client.register_topic(&topic("/x", "node")).await.unwrap();
    view.follow(&mut watch, |view| view.topics == [topic("/x", "node")]).await;
    assert_eq!(view.revision, None);
    client.unregister_topic("/x").await.unwrap();
    view.follow(&mut watch, |view| view.topics.is_empty()).await;

    client.shutdown().await.unwrap();
    assert_eq!(daemon.wait().code, Some(0));
    let _daemon = DaemonBuilder::at(&test_dir).start();
    client.register_topic(&topic("/xx", "node")).await.unwrap();
    view.follow(&mut watch, |view| view.topics == [topic("/xx", "node")]).await;
    assert!(view.revision.is_some() && view.resyncs == 1, "{view:?}");
}

#[tokio::test]
async fn a_refused_watch_is_an_error() {
    let refusing = ScriptedDaemon::start(|request| {
        vec![request.reply(status_reply(DiscoveryStatus::Error, "not today"))]
    });
    let client = client(&refusing.address());
    let built = client.watch(Some("/[a")).map(drop);
    assert!(matches!(built, Err(Error::InvalidFilter { .. })), "{built:?}");
    let refused = Error::Refused { message: "not today".into() };
    let mut watch = client.watch(None).unwrap();
    for _ in 0..3 {
        assert_eq!(watch.next_event().await, Err(refused.clone()));
    }
}

#[tokio::test]
async fn a_watch_reports_a_missing_daemon_as_trouble() {
    let test_dir = TestDir::new();
    let client = client_with(&test_dir.address(), Duration::from_millis(100), 0);
    let mut watch = client.watch(None).unwrap();
    assert!(time::timeout(SHORT_TIMEOUT, watch.next_event()).await.is_err());
    assert!(matches!(watch.trouble(), Some(Error::NoAnswer { .. })), "{watch:?}");
    let daemon = DaemonBuilder::at(&test_dir).start();
    watch.next_event().await.unwrap();
    assert_eq!(watch.trouble(), None);
    let _ = daemon.kill();
    assert!(time::timeout(SHORT_TIMEOUT, watch.next_event()).await.is_err());
    assert!(watch.trouble().is_some(), "{watch:?}");
}

#[tokio::test]
async fn a_watch_is_a_stream_that_ends_with_the_client() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let mut watch = client.watch(None).unwrap();
    let next =
        async |watch: &mut AsyncWatch| poll_fn(|cx| Pin::new(&mut *watch).poll_next(cx)).await;
    let first = next(&mut watch).await;
    assert!(matches!(first, Some(Ok(WatchEvent::Snapshot { is_resync: false, .. }))), "{first:?}");
    client.close().await.unwrap();
    assert_eq!(next(&mut watch).await, Some(Err(Error::Closed)));
    assert_eq!(next(&mut watch).await, None);
    assert_eq!(watch.next_event().await, Err(Error::Closed));
    assert_eq!(client.ping().await, Err(Error::Closed));
}

#[tokio::test]
async fn dropped_watches_do_not_disturb_their_client() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    for _ in 0..100 {
        let mut watch = client.watch(None).unwrap();
        watch.next_event().await.unwrap();
        assert!(time::timeout(Duration::from_millis(1), watch.next_event()).await.is_err());
    }
    client.ping().await.unwrap();
}

#[tokio::test]
async fn an_advertised_topic_survives_restarts_and_ends_with_its_guard() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    let guard = client.advertise(topic("/x", "node")).unwrap();
    assert!(time::timeout(QUIET_PERIOD, guard.registered()).await.is_err(), "no daemon runs");
    for _ in 0..2 {
        let daemon = DaemonBuilder::at(&test_dir).args(["--no-state"]).start();
        assert_eq!(client.wait_for_topic("/x", TIMEOUT).await, Ok(topic("/x", "node")));
        assert_eq!(time::timeout(TIMEOUT, guard.registered()).await, Ok(Ok(())));
        assert_eq!(guard.trouble(), None);
        let _ = daemon.kill();
    }
    let _daemon = DaemonBuilder::at(&test_dir).args(["--no-state"]).start();
    let mut watch = client.watch(None).unwrap();
    let mut view = TopicView::default();
    view.follow(&mut watch, |view| view.topics.len() == 1).await;
    drop(guard);
    view.follow(&mut watch, |view| view.topics.is_empty()).await;

    let again = client.clone().advertise(topic("/y", "node")).unwrap();
    again.registered().await.unwrap();
    assert_eq!(again.unregister_async().await, Ok(()));
    assert_eq!(client.list_topics().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_later_advertisement_ends_the_wait_for_an_earlier_one() {
    let client = client(&TestDir::new().address());
    let former = client.advertise(topic("/x", "node")).unwrap();
    let (result, later) = tokio::join!(former.registered(), async {
        tokio::task::yield_now().await;
        client.advertise(topic("/x", "node")).unwrap()
    });
    assert_eq!(result, Err(Error::Replaced { topic: "/x".into() }));
    drop(later);
}

/// On an idle machine the required time is 250 ms.
#[tokio::test]
async fn timers_are_on_time_while_guards_are_dropped_and_the_daemon_is_stopped() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let mut guards = Vec::new();
    for number in 0..20 {
        let guard = client.advertise(topic(&format!("/topic/{number}"), "node")).unwrap();
        guard.registered().await.unwrap();
        guards.push(guard);
    }
    daemon.signal(Signal::STOP);
    let worst = worst_timer_delay(async {
        drop(guards);
        let unanswered = client.advertise(topic("/mute", "node")).unwrap();
        assert!(time::timeout(QUIET_PERIOD, unanswered.registered()).await.is_err());
        let end = time::timeout(TIMEOUT, unanswered.unregister_async()).await.unwrap();
        assert!(end.is_err() || end == Ok(()));
    })
    .await;
    report_measurement(&format!("a 10 ms timer was late by {worst:?} at worst"));
    assert!(worst < Duration::from_millis(2500), "{worst:?}");
    daemon.signal(Signal::CONT);
    wait_until_no_topics(&client).await;
}

async fn wait_until_no_topics(client: &AsyncDiscoveryClient) {
    let going = async { while !client.list_topics().await.unwrap().is_empty() {} };
    time::timeout(TIMEOUT, going).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_is_polled_more_rarely_than_its_timeout_still_gets_events() {
    let daemon = Daemon::start();
    let timeout = Duration::from_millis(200);
    let client = client_with(daemon.address(), timeout, 0);
    client.ping().await.unwrap();
    let mut watch = client.watch(None).unwrap();
    for is_there in [false, true] {
        let event = poll_fn(|cx| Poll::Ready(Pin::new(&mut watch).poll_next(cx))).await;
        assert_eq!(matches!(event, Poll::Ready(Some(Ok(_)))), is_there, "{event:?}");
        time::sleep(2 * timeout).await;
    }
    assert_eq!(watch.trouble(), None);
}
