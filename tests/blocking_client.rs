//! Our blocking client, with our daemon, without a daemon, and with daemons that reply late, not
//! at all or unreadably.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::Duration;

use cortex_client::{ConnectError, DiscoveryClient, Error, Hold, TopicInfo, UnreadableReply};
use cortex_proto::{DiscoveryResponse, DiscoveryStatus};
use cortex_tests::conformance::{check_every_client_call, client};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::topic;
use cortex_tests::scripted_daemon::{Reply, Request, ScriptedDaemon};
use cortex_tests::test_dir::TestDir;

/// Long enough for a reply on a busy machine, and short enough for tests in which no reply comes.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

fn short_timeout_client(address: &str, retries: u32) -> DiscoveryClient {
    DiscoveryClient::builder()
        .address(address)
        .timeout(SHORT_TIMEOUT)
        .retries(retries)
        .build()
        .unwrap()
}

fn topic_reply(name: &str) -> Vec<u8> {
    let topic_info = Some(topic(name, "node"));
    DiscoveryResponse { topic_info, ..DiscoveryResponse::new(DiscoveryStatus::Ok, "") }.to_bytes()
}

fn list_reply(names: &[&str]) -> Vec<u8> {
    let topics = names.iter().map(|name| topic(name, "node")).collect();
    DiscoveryResponse { topics, ..DiscoveryResponse::new(DiscoveryStatus::Ok, "") }.to_bytes()
}

fn status_reply(status: DiscoveryStatus, message: &str) -> Vec<u8> {
    DiscoveryResponse::new(status, message).to_bytes()
}

/// A daemon that sends the same reply to every request.
fn daemon_that_replies(body: impl Into<Vec<u8>>) -> ScriptedDaemon {
    let body = body.into();
    ScriptedDaemon::start(move |request| vec![request.reply(body.clone())])
}

/// A daemon that replies only to request `number`, counted from 1.
fn daemon_that_answers_only(number: usize, body: Vec<u8>) -> ScriptedDaemon {
    let mut received = 0;
    ScriptedDaemon::start(move |request| {
        received += 1;
        if received == number { vec![request.reply(body.clone())] } else { Vec::new() }
    })
}

#[test]
fn every_call_works_with_our_daemon() {
    for daemon in [Daemon::start(), Daemon::start_tcp_with_remote_shutdown()] {
        check_every_client_call(daemon.address());
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn a_missing_daemon_is_an_error_with_its_address_and_the_waiting_time() {
    let address = TestDir::new().address();
    let timeout = Duration::from_millis(50);
    let builder = DiscoveryClient::builder().address(&address).timeout(timeout);
    let client = builder.retries(2).build().unwrap();
    // The client finds out on another thread why it cannot connect.
    eventually("the client knows the cause", TIMEOUT, || {
        let pinged = client.ping();
        matches!(pinged, Err(Error::NoAnswer { cause: Some(_), .. })).then_some(())
    });
    let no_answer = |attempts| {
        let (address, waited) = (address.clone(), timeout * attempts);
        Error::NoAnswer { address, waited, attempts, cause: Some(ConnectError::NoSocket) }
    };
    assert_eq!(
        no_answer(3).to_string(),
        format!("no daemon answered within 150 ms at {address}: the socket does not exist")
    );
    assert_eq!(client.ping(), Err(no_answer(3)));
    assert_eq!(client.list_topics(), Err(no_answer(3)));
    assert_eq!(client.lookup_topic("/x"), Err(no_answer(3)));
    assert_eq!(client.register_topic(&topic("/x", "n")), Err(no_answer(3)));
    assert_eq!(client.unregister_topic("/x"), Err(no_answer(3)));
    assert_eq!(client.shutdown(), Err(no_answer(1)), "a SHUTDOWN has one attempt");
    let waited = client.wait_for_topic("/x", timeout);
    assert!(matches!(waited, Err(Error::NoAnswer { .. })), "{waited:?}");
}

#[test]
fn building_a_client_rejects_an_invalid_address() {
    for address in ["", "nonsense", "ipc", "tcp://127.0.0.1", "udp+x://y"] {
        let built = DiscoveryClient::builder().address(address).build().map(drop);
        let Err(Error::InvalidAddress { address: in_error, .. }) = built else {
            panic!("{address}: {built:?}")
        };
        assert_eq!(in_error, address);
    }
}

#[test]
fn a_refusal_carries_the_daemons_message() {
    let daemon = daemon_that_replies(status_reply(DiscoveryStatus::Error, "not today"));
    let client = client(&daemon.address());
    let refused = Error::Refused { message: "not today".into() };
    assert_eq!(client.ping(), Err(refused.clone()));
    assert_eq!(client.list_topics(), Err(refused.clone()));
    assert_eq!(client.lookup_topic("/x"), Err(refused.clone()));
    assert_eq!(client.register_topic(&topic("/x", "n")), Err(refused.clone()));
    assert_eq!(client.unregister_topic("/x"), Err(refused.clone()));
    assert_eq!(client.wait_for_topic("/x", TIMEOUT), Err(refused.clone()));
    assert_eq!(client.shutdown(), Err(refused));
}

#[test]
fn our_daemon_refuses_fields_over_the_length_limit() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    for length in [1025, 100_000] {
        let long = || "l".repeat(length);
        for info in [
            TopicInfo { address: long(), ..topic("/x", "n") },
            TopicInfo { message_type: long(), ..topic("/x", "n") },
            TopicInfo { publisher_node: long(), ..topic("/x", "n") },
        ] {
            let refused = client.register_topic(&info);
            assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        }
    }
    assert_eq!(client.list_topics(), Ok(Vec::new()));
    let longest = || "l".repeat(1024);
    let info = TopicInfo {
        address: longest(),
        message_type: longest(),
        publisher_node: longest(),
        ..topic(&longest(), "n")
    };
    client.register_topic(&info).unwrap();
    assert_eq!(client.list_topics(), Ok(vec![info]));
}

#[test]
fn an_unreadable_reply_is_an_error_that_names_the_reason() {
    let nonsense = daemon_that_replies(b"nonsense".to_vec());
    let client_of_nonsense = client(&nonsense.address());
    for _ in 0..2 {
        let error = client_of_nonsense.ping().unwrap_err();
        assert!(matches!(error, Error::Unreadable(UnreadableReply::Decode(_))), "{error:?}");
    }

    let lookup = |body| client(&daemon_that_replies(body).address()).lookup_topic("/asked");
    let unreadable = |why| Err(Error::Unreadable(why));
    assert_eq!(
        lookup(status_reply(DiscoveryStatus::Ok, "")),
        unreadable(UnreadableReply::NoTopicInfo),
        "OK without the topic"
    );
    assert_eq!(
        lookup(topic_reply("/other")),
        unreadable(UnreadableReply::OtherTopic { found: "/other".into() })
    );
    let status = DiscoveryStatus::AlreadyExists;
    assert_eq!(lookup(status_reply(status, "")), unreadable(UnreadableReply::Status { status }));
}

#[test]
fn a_reply_of_several_parts_is_unreadable() {
    let daemon = ScriptedDaemon::start(|mut request: Request| {
        request.envelope.push(status_reply(DiscoveryStatus::Ok, "pong"));
        vec![request.reply("and more")]
    });
    let answer = client(&daemon.address()).ping();
    assert_eq!(answer, Err(Error::Unreadable(UnreadableReply::Parts { count: 2 })));
}

#[test]
fn a_call_after_a_timeout_never_gets_the_late_reply() {
    let mut delayed: Option<Request> = None;
    // At each second request the daemon sends the late reply to the first, then the right one.
    let daemon = ScriptedDaemon::start(move |request| match delayed.take() {
        None => {
            delayed = Some(request);
            Vec::new()
        }
        Some(late) => vec![late.reply(topic_reply("/late")), request.reply(topic_reply("/wanted"))],
    });
    let client = short_timeout_client(&daemon.address(), 0);
    for _ in 0..2 {
        let late = client.lookup_topic("/late");
        assert!(matches!(late, Err(Error::NoAnswer { attempts: 1, .. })), "{late:?}");
        assert_eq!(client.lookup_topic("/wanted"), Ok(topic("/wanted", "node")));
    }
}

#[test]
fn a_call_never_takes_the_reply_to_an_earlier_retry() {
    let mut received = 0;
    let mut delayed: Vec<Request> = Vec::new();
    let daemon = ScriptedDaemon::start(move |request| {
        received += 1;
        if received < 4 {
            delayed.push(request);
            return Vec::new();
        }
        let late = delayed.drain(..).map(|late| late.reply(topic_reply("/late")));
        let mut replies: Vec<Reply> = late.collect();
        replies.push(request.reply(topic_reply("/wanted")));
        replies
    });
    let client = short_timeout_client(&daemon.address(), 1);
    let late = client.lookup_topic("/late");
    assert!(matches!(late, Err(Error::NoAnswer { attempts: 2, .. })), "{late:?}");
    assert_eq!(client.lookup_topic("/wanted"), Ok(topic("/wanted", "node")));
}

#[test]
fn the_first_attempt_does_not_count_as_a_retry() {
    let daemon = daemon_that_answers_only(2, status_reply(DiscoveryStatus::Ok, "pong"));
    let none = short_timeout_client(&daemon.address(), 0).ping();
    assert!(matches!(none, Err(Error::NoAnswer { attempts: 1, .. })), "{none:?}");

    let daemon = daemon_that_answers_only(3, status_reply(DiscoveryStatus::Ok, "pong"));
    assert_eq!(short_timeout_client(&daemon.address(), 2).ping(), Ok(()));

    let daemon = daemon_that_answers_only(3, status_reply(DiscoveryStatus::Ok, "pong"));
    let one = short_timeout_client(&daemon.address(), 1).ping();
    assert!(matches!(one, Err(Error::NoAnswer { attempts: 2, .. })), "{one:?}");
}

#[test]
fn an_unregister_whose_first_reply_was_lost_succeeds() {
    let daemon =
        daemon_that_answers_only(2, status_reply(DiscoveryStatus::NotFound, "Topic /x not found"));
    assert_eq!(short_timeout_client(&daemon.address(), 1).unregister_topic("/x"), Ok(()));
}

#[test]
fn a_wait_polls_until_the_topic_is_registered() {
    let mut received = 0;
    let daemon = ScriptedDaemon::start(move |request| {
        received += 1;
        vec![request.reply(match received {
            1 => status_reply(DiscoveryStatus::NotFound, "Topic /x not found"),
            2 | 3 => list_reply(&["/y"]),
            _ => list_reply(&["/y", "/x"]),
        })]
    });
    let builder = DiscoveryClient::builder().address(daemon.address());
    let client = builder.poll_interval(Duration::from_millis(5)).build().unwrap();
    assert_eq!(client.wait_for_topic("/x", TIMEOUT), Ok(topic("/x", "node")));
}

#[test]
fn a_waiting_client_gets_a_topic_that_another_client_registers() {
    let daemon = Daemon::start();
    let address = daemon.address().to_owned();
    let waiting_thread = thread::spawn(move || client(&address).wait_for_topic("/x", TIMEOUT));
    daemon.process().stderr_line("the daemon has received the request", |line| {
        line.contains("/x").then_some(())
    });
    client(daemon.address()).register_topic(&topic("/x", "node")).unwrap();
    assert_eq!(waiting_thread.join().unwrap(), Ok(topic("/x", "node")));
}

#[test]
fn a_wait_that_times_out_at_a_running_daemon_says_so() {
    let waited = Duration::from_millis(300);
    let daemon = Daemon::start();
    let result = client(daemon.address()).wait_for_topic("/x", waited);
    assert_eq!(result, Err(Error::WaitTimedOut { topic: "/x".into(), waited }));
}

#[test]
fn our_daemon_describes_itself_and_its_topics() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    for name in ["/b", "/a"] {
        client.register_topic(&topic(name, "node")).unwrap();
    }
    let pid = u64::try_from(daemon.process().pid().as_raw_nonzero().get()).unwrap();
    let hello = client.hello().unwrap();
    assert_eq!((hello.level, hello.pid, hello.topics), (1, Some(pid), Some(2)));
    assert!(hello.server.unwrap().starts_with("cortex-discovery/"));
    assert_eq!(hello.revision, Some(2));
    assert!(hello.uptime.is_some() && hello.epoch.is_some());

    let all = client.describe_all().unwrap();
    let names: Vec<_> = all.iter().map(|description| description.info.name.as_str()).collect();
    assert_eq!(names, ["/b", "/a"]);
    let entry = all[1].entry.as_ref().unwrap();
    assert_eq!((entry.revision, &entry.hold), (2, &Hold::Process));
    assert_eq!(entry.pid, Some(std::process::id().into()));
    let described = client.describe("/a").unwrap();
    assert_eq!((described.info, described.entry.unwrap().revision), (topic("/a", "node"), 2));
    let missing = client.describe("/c");
    assert_eq!(missing, Err(Error::NoSuchTopic { topic: "/c".into() }));

    let stats = client.stats().unwrap();
    assert_eq!((stats["topics"], stats["waits"], stats["watches"]), (2, 0, 0));
}

#[test]
fn a_client_can_be_built_before_its_daemon_and_survives_it() {
    let test_dir = TestDir::new();
    let client = client(&test_dir.address());
    for _ in 0..3 {
        let daemon = DaemonBuilder::at(&test_dir).start();
        client.ping().unwrap();
        client.register_topic(&topic("/x", "node")).unwrap();
        let _ = daemon.kill();
    }
}

#[test]
fn a_dropped_client_leaves_no_connection() {
    let daemon = Daemon::start();
    let first = client(daemon.address());
    first.ping().unwrap();
    let before = daemon.open_files();
    let clients: Vec<_> = (0..10).map(|_| client(daemon.address())).collect();
    for client in &clients {
        client.ping().unwrap();
    }
    assert!(daemon.open_files() >= before + 10);
    drop(clients);
    eventually("the daemon has closed the connections", TIMEOUT, || {
        (daemon.open_files() <= before).then_some(())
    });
    first.ping().unwrap();
}

#[test]
fn a_process_can_have_more_clients_than_one_zeromq_context_has_sockets() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let clients: Vec<_> = (0..1100).map(|_| client(daemon.address())).collect();
    for client in &clients {
        client.ping().unwrap();
    }
}

#[test]
fn a_client_can_move_to_another_thread() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    client.ping().unwrap();
    thread::spawn(move || client.ping()).join().unwrap().unwrap();
}
