//! The command `cortex` in a shell: its output, exit codes and error messages.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use cortex_client::TopicInfo;
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestExt};
use cortex_tests::cli::{command, run, run_at};
use cortex_tests::conformance::{check_every_command, client, expect_success};
use cortex_tests::daemon::Daemon;
use cortex_tests::messages::{register_static, topic, topic_names};
use cortex_tests::process::{Process, ProcessOutput};
use cortex_tests::scripted_daemon::ScriptedDaemon;
use cortex_tests::test_dir::TestDir;
use cortex_tests::{binaries, python, raw_peer, report_skipped};
use rustix::net::{self, AddressFamily, SocketType};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longer than the deadline of any test: a command that exits did not use up this timeout.
const HOUR_TIMEOUT: [&str; 2] = ["--timeout", "1h"];

fn parse_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A daemon with a few topics, registered in an order that is not alphabetical.
fn daemon_with_topics() -> Daemon {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let image = |name, node| TopicInfo { message_type: "Image".into(), ..topic(name, node) };
    for topic in [
        topic("/lidar", "lidar_node"),
        image("/camera/right", "camera_node"),
        image("/camera/left", "camera_node"),
        image("/camera/left/small", "scaler"),
    ] {
        client.register_topic(&topic).unwrap();
    }
    daemon
}

/// Checks that a command printed only an error as JSON, and returns its kind.
fn error_kind(output: &ProcessOutput, code: i32) -> String {
    assert_eq!((output.code, output.stdout.as_str()), (Some(code), ""), "{}", output.stderr);
    let message = parse_json(&output.stderr);
    let error = &message["error"];
    assert_eq!(error["exit"], code, "{message}");
    assert_ne!(error["message"].as_str().unwrap(), "", "{message}");
    error["kind"].as_str().unwrap().to_owned()
}

#[test]
fn every_command_works_with_our_daemon() {
    for daemon in [Daemon::start(), Daemon::start_tcp_with_remote_shutdown()] {
        check_every_command(daemon.address());
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn a_list_shows_what_a_python_node_registered() {
    let daemon = Daemon::start();
    let node = ["register", "/from/python", "python_node", "then", "hold"];
    let node = python::spawn("node.py", &[&[daemon.address()], &node[..]].concat());
    node.stdout_line("the node has registered its topic", |line| {
        line.contains("Registered").then_some(())
    });
    let table = expect_success(run_at(daemon.address(), &["topic", "list"]));
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = ["/from/python", "TestMessage", "python_node", "ipc:///run/nodes/from/python.sock"];
    assert_eq!(rows, [&["TOPIC", "TYPE", "NODE", "ADDRESS"], &row]);
}

#[test]
fn a_list_is_sorted_by_name_in_every_format() {
    let daemon = daemon_with_topics();
    let cortex = |arguments: &[&str]| expect_success(run_at(daemon.address(), arguments));
    let names = ["/camera/left", "/camera/left/small", "/camera/right", "/lidar"];

    let table = cortex(&["list"]);
    let first = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    assert_eq!(table.lines().skip(1).map(first).collect::<Vec<_>>(), names);
    let at = table.find("TYPE").unwrap();
    for line in table.lines() {
        assert!(line[..at].ends_with("  "), "the columns are aligned:\n{table}");
    }
    let bare = cortex(&["list", "--no-headers"]);
    assert_eq!(bare.lines().map(first).collect::<Vec<_>>(), names);

    assert_eq!(cortex(&["list", "-o", "name"]).lines().collect::<Vec<_>>(), names);

    let array = parse_json(&cortex(&["list", "-o", "json"]));
    let array = array.as_array().unwrap();
    assert_eq!(array.iter().map(|topic| &topic["name"]).collect::<Vec<_>>(), names);
    let lines = cortex(&["list", "-o", "jsonl"]);
    assert_eq!(lines.lines().map(parse_json).collect::<Vec<_>>(), *array);
    let camera = json!({
        "name": "/camera/left",
        "address": "ipc:///run/nodes/camera/left.sock",
        "message_type": "Image",
        "fingerprint": "0x123456789abcdef0",
        "publisher_node": "camera_node",
    });
    assert_eq!(array[0], camera);
}

#[test]
fn a_list_can_be_filtered_by_pattern_type_and_node() {
    let daemon = daemon_with_topics();
    for (filter, expected) in [
        (&["/camera/*"][..], &["/camera/left", "/camera/right"][..]),
        (&["/camera/**"], &["/camera/left", "/camera/left/small", "/camera/right"]),
        (&["/lida?"], &["/lidar"]),
        (&["--type", "TestMessage"], &["/lidar"]),
        (&["--node", "scaler"], &["/camera/left/small"]),
        (&["/camera/*", "--type", "Image", "--node", "scaler"], &[]),
    ] {
        let arguments = [&["-q", "-o", "name", "topic", "list"], filter].concat();
        let listed = expect_success(run_at(daemon.address(), &arguments));
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

#[test]
fn listing_no_topics_is_a_success() {
    let daemon = Daemon::start();
    for (format, expected) in [("name", ""), ("json", "[]\n"), ("jsonl", "")] {
        assert_eq!(
            expect_success(run_at(daemon.address(), &["-q", "list", "-o", format])),
            expected
        );
    }
    let table = run_at(daemon.address(), &["list"]);
    assert_eq!((table.code, table.stdout.lines().count()), (Some(0), 1), "a header");
}

#[test]
fn a_lookup_shows_a_topic_or_one_of_its_fields() {
    let daemon = daemon_with_topics();
    let cortex = |arguments: &[&str]| expect_success(run_at(daemon.address(), arguments));
    assert!(cortex(&["topic", "lookup", "/lidar"]).contains("ipc:///run/nodes/lidar.sock"));
    assert_eq!(cortex(&["lookup", "/lidar"]), cortex(&["topic", "lookup", "/lidar"]));
    let topic = parse_json(&cortex(&["lookup", "/lidar", "-o", "json"]));
    for field in ["name", "address", "message_type", "fingerprint", "publisher_node"] {
        let printed = cortex(&["lookup", "/lidar", "--field", field]);
        assert_eq!(printed.trim_end(), topic[field].as_str().unwrap(), "{field}");
    }
}

#[test]
fn names_and_messages_cannot_send_control_characters_to_the_terminal() {
    let daemon = Daemon::start();
    let name = "/a\u{1b}[31m\nb\u{202e}";
    client(daemon.address()).register_topic(&topic(name, "node\r\u{7}")).unwrap();
    let is_control = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    for arguments in [&["list"][..], &["list", "-o", "name"], &["lookup", name]] {
        let shown = expect_success(run_at(daemon.address(), arguments));
        assert!(!shown.contains(is_control), "{arguments:?}: {shown:?}");
    }
    let listed = parse_json(&expect_success(run_at(daemon.address(), &["list", "-o", "json"])));
    assert_eq!(listed[0]["name"], name, "JSON output keeps the characters");

    let refusing = ScriptedDaemon::start(|request| {
        let response = DiscoveryResponse::new(DiscoveryStatus::Error, "no\u{1b}[2J\r\u{202e}");
        vec![request.reply(response.to_bytes())]
    });
    let refused = run_at(&refusing.address(), &["list"]);
    assert_eq!(refused.code, Some(1));
    assert!(!refused.stderr.contains(is_control), "{:?}", refused.stderr);
}

#[test]
fn exit_codes_distinguish_failures() {
    let daemon = Daemon::start();
    let nowhere = TestDir::new().address();
    let refusing = ScriptedDaemon::start(|request| {
        let response = DiscoveryResponse::new(DiscoveryStatus::Error, "not today");
        vec![request.reply(response.to_bytes())]
    });
    let unreadable = ScriptedDaemon::start(|request| vec![request.reply("nonsense")]);
    for (address, arguments, code) in [
        (&refusing.address(), &["ping"][..], 1),
        (&refusing.address(), &["list"], 1),
        (&"tcp://127.0.0.1:99999".to_owned(), &["ping"], 2),
        (&"ipc://*".to_owned(), &["list"], 2),
        (&daemon.address().to_owned(), &["nonsense"], 2),
        (&daemon.address().to_owned(), &["list", "--nonsense"], 2),
        (&daemon.address().to_owned(), &["list", "/a["], 2),
        (&daemon.address().to_owned(), &["lookup"], 2),
        (&daemon.address().to_owned(), &["lookup", ""], 2),
        (&daemon.address().to_owned(), &["ping", "--timeout", "2"], 2),
        (&daemon.address().to_owned(), &["list", "-o", "xml"], 2),
        (&"nonsense".to_owned(), &["ping"], 2),
        (&nowhere, &["ping"], 3),
        (&nowhere, &["list"], 3),
        (&nowhere, &["lookup", "/x"], 3),
        (&nowhere, &["shutdown"], 3),
        (&daemon.address().to_owned(), &["lookup", "/nope"], 4),
        (&daemon.address().to_owned(), &["topic", "lookup", "/nope"], 4),
        (&unreadable.address(), &["ping"], 6),
        (&unreadable.address(), &["list"], 6),
        (&unreadable.address(), &["lookup", "/x"], 6),
    ] {
        let output = run_at(address, arguments);
        assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr);
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(output.stderr.starts_with("error: "), "{arguments:?}: {}", output.stderr);

        // An unknown output format cannot be combined with JSON.
        if !arguments.contains(&"xml") {
            let as_json = run_at(address, &[arguments, &["-o", "json"]].concat());
            error_kind(&as_json, code);
        }
    }
}

#[test]
fn a_missing_daemon_is_reported_at_once_with_the_reason() {
    let test_dir = TestDir::new();
    let absent = run_at(&test_dir.address(), &[&HOUR_TIMEOUT[..], &["ping"]].concat());
    drop(UnixListener::bind(test_dir.socket()).unwrap());
    let stale = run_at(&test_dir.address(), &[&HOUR_TIMEOUT[..], &["ping"]].concat());
    let (_reserved, port) = port_without_listener();
    let port_address = format!("tcp://127.0.0.1:{port}");
    let port = run_at(&port_address, &[&HOUR_TIMEOUT[..], &["ping"]].concat());

    let mut sentences = Vec::new();
    for output in [absent, stale, port] {
        assert_eq!((output.code, output.stdout.as_str()), (Some(3), ""), "{}", output.stderr);
        assert!(output.stderr.contains("\nhint: "), "{}", output.stderr);
        sentences.push(output.stderr);
    }
    assert!(sentences[0].contains(&test_dir.address()) && sentences[2].contains(&port_address));
    assert_ne!(
        sentences[0], sentences[1],
        "a missing socket and a dead socket have different messages"
    );
}

/// A port without a listener. The returned socket reserves it.
fn port_without_listener() -> (OwnedFd, u16) {
    let reserved = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&reserved, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = SocketAddr::try_from(net::getsockname(&reserved).unwrap()).unwrap();
    (reserved, address.port())
}

#[test]
fn a_socket_without_permission_is_reported_as_such() {
    if !rustix::process::geteuid().is_root() {
        report_skipped("only root can run a command as another user");
        return;
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(binaries::cli()).args(arguments).env_remove("CORTEX_DISCOVERY_ADDRESS");
        command.output()
    };
    if !as_nobody(&["--version"]).is_ok_and(|output| output.status.success()) {
        report_skipped("setpriv is missing, or other users cannot run the binary");
        return;
    }
    let daemon = Daemon::start();
    let socket = daemon.test_dir().socket();
    fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o700)).unwrap();
    let arguments = [&["-a", daemon.address()], &HOUR_TIMEOUT[..], &["ping"]].concat();
    let output = as_nobody(&arguments).unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("permission") || message.contains("may not"), "{message}");
}

#[test]
fn a_command_times_out_when_the_daemon_does_not_reply() {
    let silent = ScriptedDaemon::start(|_| Vec::new());
    let output = run_at(&silent.address(), &["--timeout", "200ms", "-o", "json", "list"]);
    let no_answer = error_kind(&output, 3);
    let nowhere = run_at(&TestDir::new().address(), &["-o", "json", "list"]);
    assert_ne!(
        no_answer,
        error_kind(&nowhere, 3),
        "a silent and a missing daemon are different kinds of errors"
    );

    let stopped = Daemon::start();
    stopped.signal(Signal::STOP);
    let output = run_at(stopped.address(), &["--timeout", "200ms", "ping"]);
    assert_eq!(output.code, Some(3), "{}", output.stderr);
    stopped.signal(Signal::CONT);
    assert_eq!(run_at(stopped.address(), &["ping"]).code, Some(0));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    for number in 0..1000 {
        client.register_topic(&topic(&format!("/topic/{number:04}"), "node")).unwrap();
    }
    for format in ["table", "name", "json", "jsonl"] {
        for lines in 0..2 {
            let (reader, writer) = io::pipe().unwrap();
            let mut command = command(&["-a", daemon.address(), "list", "-o", format]);
            command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
            let process = Process::spawn(&mut command);
            drop(command);
            BufReader::new(reader).lines().take(lines).for_each(|line| drop(line.unwrap()));
            let output = process.wait();
            assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{format}");
        }
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let daemon = daemon_with_topics();
    let mut command = command(&["-a", daemon.address(), "list"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let process = Process::spawn(command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()));
    let output = process.wait();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.starts_with("error: "), "{}", output.stderr);
}

#[test]
fn the_address_comes_from_the_option_or_else_from_the_environment() {
    let daemon = daemon_with_topics();
    let nowhere = TestDir::new().address();
    let list = |variable: &str, option: &[&str]| {
        let mut command = command(&[option, &["list", "-o", "name"]].concat());
        Process::spawn_captured(command.env("CORTEX_DISCOVERY_ADDRESS", variable)).wait()
    };
    assert_eq!(expect_success(list(daemon.address(), &[])).lines().count(), 4);
    assert_eq!(expect_success(list(&nowhere, &["-a", daemon.address()])).lines().count(), 4);
    assert_eq!(list(&nowhere, &[]).code, Some(3));
    assert_eq!(list(daemon.address(), &["-a", &nowhere]).code, Some(3));
}

#[test]
fn global_options_may_stand_before_or_after_the_command() {
    let daemon = daemon_with_topics();
    let address = daemon.address();
    let expected =
        expect_success(run(&["-a", address, "-o", "json", "--timeout", "9s", "topic", "list"]));
    for arguments in [
        &["topic", "list", "-a", address, "-o", "json", "--timeout", "9s"][..],
        &["topic", "-a", address, "--timeout=9s", "list", "--output=json"],
        &["list", "-ojson", "--address", address],
    ] {
        assert_eq!(expect_success(run(arguments)), expected, "{arguments:?}");
    }
}

#[test]
fn output_is_coloured_for_terminals_or_on_request() {
    let daemon = daemon_with_topics();
    let is_coloured = |arguments: &[&str]| {
        let output = run_at(daemon.address(), arguments);
        format!("{}{}", output.stdout, output.stderr).contains('\u{1b}')
    };
    for command in [&["list"][..], &["lookup", "/nope"]] {
        assert!(!is_coloured(command), "a pipe");
        assert!(!is_coloured(&[&["--color", "never"], command].concat()));
        assert!(is_coloured(&[&["--color", "always"], command].concat()));
        for format in ["name", "json", "jsonl"] {
            let plain = [&["--color", "always", "-o", format], &["list"][..]].concat();
            assert!(!is_coloured(&plain), "{format} is for programs, without colours");
        }
    }
}

#[test]
fn ping_sends_the_requested_number_of_pings() {
    let daemon = Daemon::start();
    let lines =
        expect_success(run_at(daemon.address(), &["ping", "-c", "3", "-i", "1ms", "-o", "jsonl"]));
    assert_eq!(lines.lines().map(parse_json).count(), 3);
}

#[test]
fn a_command_reports_that_a_signal_ended_it() {
    let daemon = Daemon::start();
    let arguments = ["-a", daemon.address(), "ping", "-c", "9", "-i", "1h"];
    let pinging = Process::spawn_captured(&mut command(&arguments));
    pinging.stdout_line("the first reply", |_| Some(()));
    pinging.signal(Signal::INT);
    let output = pinging.wait();
    // A shell shows both as the exit code 130.
    assert!(output.code == Some(130) || output.signal == Some(2), "{output:?}");
}

#[test]
fn shutdown_can_wait_until_the_daemon_has_exited() {
    for daemon in [Daemon::start(), Daemon::start_tcp_with_remote_shutdown()] {
        let address = daemon.address().to_owned();
        let _ = expect_success(run_at(&address, &["shutdown", "--wait", "--timeout", "30s"]));
        assert!(raw_peer::ping(&address).is_err());
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn version_and_help_are_printed() {
    let version = expect_success(run(&["--version"]));
    assert_eq!(version.trim(), concat!("cortex ", env!("CARGO_PKG_VERSION")));
    for arguments in
        [&["--help"][..], &["topic", "--help"], &["list", "--help"], &["lookup", "--help"]]
    {
        assert!(expect_success(run(arguments)).contains("Usage:"), "{arguments:?}");
    }
}

/// The table of patterns and matching names, shared by all tests of filters.
const FILTERS: &str = include_str!("../crates/cortex-proto/tests/golden/filters.json");

#[test]
fn patterns_match_the_same_topics_in_the_command_line_and_the_daemon() {
    let daemon = Daemon::start();
    let mut peer = daemon.raw_peer();
    let cases: Vec<Value> = serde_json::from_str(FILTERS).unwrap();
    let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_owned();
    for case in &cases {
        let register = register_static(topic(&text(case, "name"), "node"));
        assert_eq!(peer.request(&register).unwrap().status, DiscoveryStatus::Ok);
    }
    for case in &cases {
        let (filter, name) = (text(case, "filter"), text(case, "name"));
        let expected = case["matches"].as_bool().unwrap();

        let ext = RequestExt { filter: Some(filter.clone()), ..RequestExt::default() };
        let watched = peer.request(&DiscoveryRequest::watch(ext)).unwrap();
        assert_eq!(topic_names(&watched).contains(&&*name), expected, "the daemon: {case}");

        let listed = run_at(daemon.address(), &["list", "-o", "name", "--", &filter]);
        assert_eq!(listed.code, Some(0), "{}", listed.stderr);
        let is_listed = listed.stdout.lines().any(|line| line == name);
        assert_eq!(is_listed, expected, "the command line: {case}");
    }
}
