//! The client under load and in unusual use: many calls, waits that come and go, wakers that
//! misbehave; and calls that no daemon answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::error::Error as _;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use cortex_client::{
    AsyncDiscoveryClient, ConnectError, DiscoveryClient, Error, TopicInfo, UnreadableReply,
};
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus};
use cortex_tests::clients::block_on;
use cortex_tests::conformance::{client, parked_requests, wait_until_parked};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{ParkedRequests, topic};
use cortex_tests::report_measurement;
use cortex_tests::scripted_daemon::ScriptedDaemon;
use cortex_tests::test_dir::TestDir;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

const NOTHING_PARKED: ParkedRequests = ParkedRequests { waits: 0, watches: 0 };

fn async_client(address: &str) -> AsyncDiscoveryClient {
    AsyncDiscoveryClient::builder().address(address).timeout(TIMEOUT).build_async().unwrap()
}

/// Polls a future once.
fn poll_once<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[test]
fn dropped_waits_and_watches_are_no_longer_parked() {
    let daemon = Daemon::start();
    let observer = client(daemon.address());
    let client = async_client(daemon.address());
    let mut waits: Vec<_> = (0..100)
        .map(|number| {
            let client = client.clone();
            Box::pin(async move { client.wait_for_topic(&format!("/{number}"), TIMEOUT).await })
        })
        .collect();
    let watches: Vec<_> = (0..100).map(|_| client.watch(None).unwrap()).collect();
    let blocking_watch = observer.watch(None).unwrap();
    for wait in &mut waits {
        assert!(poll_once(wait.as_mut(), Waker::noop()).is_pending());
    }
    // A watch parks its request when its user has taken the snapshot.
    let mut watches: Vec<_> = watches
        .into_iter()
        .map(|mut watch| {
            block_on(watch.next_event()).unwrap();
            watch
        })
        .collect();
    wait_until_parked(daemon.address(), ParkedRequests { waits: 100, watches: 100 });
    let began = Instant::now();
    drop((waits.split_off(50), watches.split_off(50)));
    wait_until_parked(daemon.address(), ParkedRequests { waits: 50, watches: 50 });
    drop((waits, watches, blocking_watch));
    wait_until_parked(daemon.address(), NOTHING_PARKED);
    report_measurement(&format!("200 dropped requests were gone after {:?}", began.elapsed()));
}

#[test]
fn ten_thousand_waits_that_come_and_go_leave_nothing() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = async_client(daemon.address());
    for round in 0..100 {
        let mut waits: Vec<_> = (0..100)
            .map(|number| {
                let client = client.clone();
                let name = format!("/{round}/{number}");
                Box::pin(async move { client.wait_for_topic(&name, TIMEOUT).await })
            })
            .collect();
        for wait in &mut waits {
            assert!(poll_once(wait.as_mut(), Waker::noop()).is_pending());
        }
        // Some are parked already, and some are not.
        block_on(client.ping()).unwrap();
    }
    wait_until_parked(daemon.address(), NOTHING_PARKED);
    assert_eq!(parked_requests(&self::client(daemon.address())), NOTHING_PARKED);
}

#[test]
fn lookups_and_a_session_go_on_beside_lists_of_a_hundred_thousand_topics() {
    const TOPICS: usize = 100_000;
    let builder = DaemonBuilder::at(&TestDir::new()).args(["--no-state"]).log_level(Some("info"));
    let daemon = builder.with_tcp().start();
    let client = client(&daemon.addresses()[1]);
    let guard = client.advertise(topic("/guarded", "node")).unwrap();
    guard.wait_registered(TIMEOUT).unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    let registering = async_client(daemon.address());
    runtime.block_on(async {
        let mut calls = JoinSet::new();
        for number in 1..TOPICS {
            let registering = registering.clone();
            let info = topic(&format!("/{number:05}"), "node");
            calls.spawn(async move { registering.register_topic(&info).await.unwrap() });
            if calls.len() == 1000 {
                while calls.join_next().await.is_some() {}
            }
        }
        calls.join_all().await;
    });
    let done = AtomicBool::new(false);
    let worst = thread::scope(|scope| {
        let lists: Vec<_> =
            (0..10).map(|_| scope.spawn(|| client.list_topics().unwrap().len())).collect();
        let looking = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.lookup_topic("/00007").unwrap();
                worst = worst.max(began.elapsed());
            }
            worst
        });
        for list in lists {
            assert_eq!(list.join().unwrap(), TOPICS);
        }
        done.store(true, Ordering::Relaxed);
        looking.join().unwrap()
    });
    report_measurement(&format!("the slowest lookup beside ten LISTs took {worst:?}"));
    assert!(guard.is_registered());
}

static SHARED: LazyLock<(Daemon, DiscoveryClient)> = LazyLock::new(|| {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    (daemon, client)
});

#[test]
fn a_static_client_serves_all_threads() {
    thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || {
                let client = &SHARED.1;
                let name = format!("/{number}");
                for _ in 0..100 {
                    client.register_topic(&topic(&name, "node")).unwrap();
                    assert_eq!(client.lookup_topic(&name), Ok(topic(&name, "node")));
                }
            });
        }
    });
    assert_eq!(SHARED.1.list_topics().unwrap().len(), 16);
    // Nothing drops a static.
    SHARED.1.close().unwrap();
    SHARED.0.signal(rustix::process::Signal::TERM);
}

/// A waker that runs a closure.
struct OnWake<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[test]
fn a_waker_that_panics_harms_no_other_call() {
    let daemon = Daemon::start();
    let client = async_client(daemon.address());
    let waker = Arc::new(OnWake(|| panic!("as the test wants"))).into();
    for round in 0..10 {
        let name = format!("/{round}");
        let mut waiting = pin!(client.wait_for_topic(&name, TIMEOUT));
        assert!(poll_once(waiting.as_mut(), &waker).is_pending());
        block_on(client.register_topic(&topic(&name, "node"))).unwrap();
        assert_eq!(block_on(waiting), Ok(topic(&name, "node")));
    }
}

#[test]
fn a_waker_may_drop_the_last_handle_and_make_calls() {
    let daemon = Daemon::start();
    let (sender, receiver) = mpsc::channel();
    let blocking = client(daemon.address());
    let last = Arc::new(Mutex::new(Some(blocking.clone())));
    let guard = Mutex::new(Some(blocking.advertise(topic("/x", "node")).unwrap()));
    let client = async_client(daemon.address());
    let held = Arc::new(Mutex::new(Some(client.clone())));
    let waker: Waker = Arc::new(OnWake({
        let (last, held) = (Arc::clone(&last), Arc::clone(&held));
        move || {
            let last = last.lock().unwrap().take();
            drop(guard.lock().unwrap().take());
            let called = last.as_ref().map(DiscoveryClient::ping);
            drop(last);
            drop(held.lock().unwrap().take());
            let _ = sender.send(called);
        }
    }))
    .into();
    // This waker runs on the thread of `client`, where a call of another client is possible.
    {
        let mut waiting = Box::pin(client.wait_for_topic("/y", TIMEOUT));
        assert!(poll_once(waiting.as_mut(), &waker).is_pending());
        self::client(daemon.address()).register_topic(&topic("/y", "node")).unwrap();
        assert_eq!(receiver.recv_timeout(TIMEOUT).unwrap(), Some(Ok(())));
        assert_eq!(block_on(waiting), Ok(topic("/y", "node")));
    }
    drop((blocking, client));
    eventually("both connections are closed", TIMEOUT, || {
        let observer = self::client(daemon.address());
        (observer.stats().unwrap()["connections"] == 1).then_some(())
    });
}

#[test]
fn a_callback_that_makes_a_blocking_call_gets_an_error() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let (sender, receiver) = mpsc::channel();
    let in_callback = client.clone();
    let guard = client.advertise_with(topic("/x", "node"), move |_| {
        let _ = sender.send((in_callback.ping(), in_callback.close()));
    });
    let called = receiver.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(called, (Err(Error::OnClientThread), Err(Error::OnClientThread)));
    drop(guard);
    client.ping().unwrap();
}

#[test]
fn invalid_addresses_are_refused_when_the_client_is_made() {
    for address in [
        "tcp://host:99999",
        "tcp://h:0",
        "tcp://::1:5550",
        "ipc://*",
        "inproc://x",
        "ws://robot:80",
        "udp://robot:80",
    ] {
        for error in [
            DiscoveryClient::connect(address).unwrap_err(),
            AsyncDiscoveryClient::connect(address).unwrap_err(),
        ] {
            assert!(matches!(error, Error::InvalidAddress { .. }), "{address}: {error:?}");
            assert!(error.to_string().contains(": write "), "it says what to write: {error}");
        }
    }
}

/// The address of a TCP port where nobody listens.
fn unused_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("tcp://{}", listener.local_addr().unwrap())
}

#[test]
fn an_unreachable_daemon_is_told_at_once_with_its_cause() {
    let missing = TestDir::new();
    let refused = unused_port();
    for (address, cause) in
        [(missing.address(), ConnectError::NoSocket), (refused.clone(), ConnectError::Refused)]
    {
        let builder = DiscoveryClient::builder().address(&address).timeout(TIMEOUT);
        let began = Instant::now();
        let client = builder.fail_fast(true).build().unwrap();
        for _ in 0..3 {
            let (address, cause) = (address.clone(), cause.clone());
            assert_eq!(client.ping(), Err(Error::Unreachable { address, cause }));
        }
        assert!(began.elapsed() < TIMEOUT, "not at the timeout");
    }
    let unresolvable = DiscoveryClient::builder().address("tcp://no-such-host.invalid:5550");
    let error = unresolvable.timeout(TIMEOUT).fail_fast(true).build().unwrap().ping();
    let is_named = matches!(
        &error,
        Err(Error::Unreachable { cause: ConnectError::HostName { name, .. }, .. })
            if name == "no-such-host.invalid"
    );
    assert!(is_named, "{error:?}");

    // Otherwise the client goes on trying, and names the cause at the end.
    let builder = DiscoveryClient::builder().address(&refused);
    let patient = builder.timeout(Duration::from_secs(1)).build().unwrap();
    let error = patient.ping().unwrap_err().to_string();
    assert!(error.ends_with(": no process listens there"), "{error}");
    let error = patient.wait_for_topic("/x", Duration::from_secs(1)).unwrap_err().to_string();
    assert!(error.ends_with(": no process listens there"), "{error}");
}

#[test]
fn a_list_is_told_when_its_daemon_has_ended_and_nobody_serves() {
    let (sender, receiver) = mpsc::channel();
    let daemon = ScriptedDaemon::start(move |request| {
        sender.send(request.body).unwrap();
        Vec::new()
    });
    let address = daemon.address();
    let builder = DiscoveryClient::builder().address(&address).timeout(TIMEOUT);
    let client = builder.fail_fast(true).build().unwrap();
    let began = Instant::now();
    let listing = thread::spawn(move || client.list_topics());
    receiver.recv_timeout(TIMEOUT).unwrap();
    drop(daemon);
    let error = listing.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(began.elapsed() < TIMEOUT, "not at the timeout");
}

#[test]
fn requests_that_were_given_up_never_reach_the_next_daemon() {
    let test_dir = TestDir::new();
    let builder = DiscoveryClient::builder().address(test_dir.address());
    let client = builder.timeout(Duration::from_millis(50)).retries(1).build().unwrap();
    let given_up = [
        client.register_topic(&topic("/x", "node")),
        client.unregister_topic("/x"),
        client.shutdown(),
    ];
    for outcome in given_up {
        assert!(matches!(outcome, Err(Error::NoAnswer { .. })), "{outcome:?}");
    }
    // It answers like a legacy daemon.
    let received = Arc::new(Mutex::new(BTreeSet::new()));
    let _daemon = ScriptedDaemon::start_at(&test_dir, {
        let received = Arc::clone(&received);
        move |request| {
            let command = DiscoveryRequest::from_bytes(&request.body).unwrap().command;
            received.lock().unwrap().insert(command.to_string());
            let pong = DiscoveryResponse::new(DiscoveryStatus::Ok, "pong");
            vec![request.reply(pong.to_bytes())]
        }
    });
    eventually("a daemon answers", TIMEOUT, || client.ping().ok());
    let received: Vec<_> = received.lock().unwrap().iter().cloned().collect();
    assert_eq!(received, ["PING"]);
}

#[test]
fn an_old_daemon_that_does_not_know_ping_lives() {
    let daemon = ScriptedDaemon::start(|request| {
        let message = "Failed to parse request: 5 is not a valid DiscoveryCommand";
        vec![request.reply(DiscoveryResponse::new(DiscoveryStatus::Error, message).to_bytes())]
    });
    let client = client(&daemon.address());
    assert_eq!(client.ping(), Ok(()));
    assert_eq!(client.hello().unwrap().level, 0);
}

#[test]
fn a_zero_timeout_makes_no_attempt() {
    let daemon = Daemon::start();
    let builder = DiscoveryClient::builder().address(daemon.address()).timeout(Duration::ZERO);
    let client = builder.retries(3).build().unwrap();
    let Err(Error::NoAnswer { attempts: 0, .. }) = client.ping() else { panic!("no attempt") };
    let waited = client.wait_for_topic("/x", Duration::from_millis(100));
    let Err(Error::NoAnswer { attempts: 0, .. }) = waited else { panic!("{waited:?}") };
    daemon.assert_serves();
}

#[test]
fn an_error_names_its_reason_once() {
    let garbage = ScriptedDaemon::start(|request| vec![request.reply("garbage")]);
    let unreadable = client(&garbage.address()).ping().unwrap_err();
    assert!(matches!(unreadable, Error::Unreadable(UnreadableReply::Decode(_))), "{unreadable:?}");
    let refused = DiscoveryClient::builder().address(unused_port()).timeout(TIMEOUT);
    let mut errors = vec![
        unreadable,
        DiscoveryClient::connect("ws://x").unwrap_err(),
        refused.fail_fast(true).build().unwrap().ping().unwrap_err(),
        client(&garbage.address()).watch(Some("/a[")).unwrap_err(),
    ];
    while let Some(error) = errors.pop() {
        let mut chain = vec![error.to_string()];
        let mut source = error.source();
        while let Some(inner) = source {
            assert!(!chain.iter().any(|text| text.contains(&inner.to_string())), "{chain:?}");
            chain.push(inner.to_string());
            source = inner.source();
        }
    }
}

#[test]
fn a_closed_client_ends_all_calls() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let guard = client.advertise(topic("/x", "node")).unwrap();
    guard.wait_registered(TIMEOUT).unwrap();
    let waiting = thread::spawn({
        let client = client.clone();
        move || client.wait_for_topic("/y", TIMEOUT)
    });
    wait_until_parked(daemon.address(), ParkedRequests { waits: 1, watches: 0 });
    assert_eq!(client.close(), Ok(()));
    let closed: Result<TopicInfo, _> = Err(Error::Closed);
    assert_eq!(waiting.join().unwrap(), closed);
    assert_eq!(client.lookup_topic("/x"), closed);
    assert_eq!(client.close(), Err(Error::Closed));
    assert!(!guard.is_registered());
    assert_eq!(guard.wait_registered(TIMEOUT), Err(Error::Closed));
    let late = client.advertise(topic("/z", "node")).unwrap();
    assert_eq!(late.wait_registered(TIMEOUT), Err(Error::Closed));
    assert_eq!(self::client(daemon.address()).list_topics(), Ok(Vec::new()));
}
