//! Our daemon with unmodified Python nodes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_tests::daemon::Daemon;
use cortex_tests::process::{Process, ProcessOutput};
use cortex_tests::python;
use cortex_tests::test_dir::ipc_address;
use serde_json::{Value, json};

/// Runs a Python node with these actions and returns the reply to each.
fn run_node(daemon: &Daemon, actions: &str) -> Vec<Value> {
    let arguments: Vec<_> = [daemon.address()].into_iter().chain(actions.split(' ')).collect();
    json_lines(&python::run("node.py", &arguments))
}

fn json_lines(output: &ProcessOutput) -> Vec<Value> {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn statuses_and_messages(replies: &[Value]) -> Vec<(u64, &str)> {
    let status = |reply: &Value| reply["status"].as_u64().unwrap();
    replies.iter().map(|reply| (status(reply), reply["message"].as_str().unwrap())).collect()
}

fn topic_names(reply: &Value) -> Vec<&str> {
    let topics = reply["topics"].as_array().unwrap();
    topics.iter().map(|topic| topic["name"].as_str().unwrap()).collect()
}

#[test]
fn a_python_node_registers_looks_up_lists_pings_and_shuts_down() {
    let daemon = Daemon::start();
    let replies = run_node(
        &daemon,
        "ping then list then register /camera camera_node then lookup /camera then list \
         then unregister /camera then lookup /camera then shutdown",
    );
    let expected = [
        (0, "pong"),
        (0, ""),
        (0, "Registered topic: /camera"),
        (0, ""),
        (0, ""),
        (0, "Unregistered topic: /camera"),
        (1, "Topic /camera not found"),
        (0, "Shutting down"),
    ];
    assert_eq!(statuses_and_messages(&replies), expected);
    let camera = json!({
        "name": "/camera",
        "address": "ipc:///run/nodes/camera.sock",
        "message_type": "TestMessage",
        "fingerprint": 0x1234_5678_9abc_def0_u64,
        "publisher_node": "camera_node",
    });
    assert_eq!(replies[1]["topics"], json!([]));
    assert_eq!(replies[3]["topic_info"], camera);
    assert_eq!(replies[4]["topics"], json!([camera]));
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_topic_belongs_to_the_first_node_that_registers_it() {
    let daemon = Daemon::start();
    let first = ["register", "/camera", "a", "then", "hold"];
    let first = python::spawn("node.py", &[&[daemon.address()], &first[..]].concat());
    first.stdout_line("the node has registered the topic", |line| {
        line.contains("Registered topic: /camera").then_some(())
    });
    let replies = run_node(&daemon, "register /camera b then lookup /camera");
    assert_eq!(
        statuses_and_messages(&replies),
        [(2, "Topic /camera already registered by a"), (0, "")]
    );
    assert_eq!(replies[1]["topic_info"]["publisher_node"], "a");
}

#[test]
fn a_list_is_in_the_order_of_first_registration() {
    let daemon = Daemon::start();
    let replies = run_node(
        &daemon,
        "register /c n then register /a n then register /b n then list \
         then register /c n ipc:///elsewhere then list \
         then unregister /c then register /c n then list",
    );
    assert_eq!(topic_names(&replies[3]), ["/c", "/a", "/b"]);
    assert_eq!(
        topic_names(&replies[5]),
        ["/c", "/a", "/b"],
        "a repeated REGISTER keeps the place in the list"
    );
    assert_eq!(replies[5]["topics"][0]["address"], "ipc:///elsewhere");
    assert_eq!(
        topic_names(&replies[8]),
        ["/a", "/b", "/c"],
        "a REGISTER after an UNREGISTER puts the topic last"
    );
}

#[test]
fn a_subscriber_finds_a_publisher_through_the_daemon_and_receives_all_messages() {
    let daemon = Daemon::start();
    let data = ipc_address(&daemon.test_dir().path("numbers.sock"));
    let listen = ["/numbers", "20"];
    let subscriber = Process::spawn_captured(&mut python::script(
        "subscriber.py",
        &[&[daemon.address()], &listen[..]].concat(),
    ));
    subscriber.stdout_line("the subscriber has not found the topic", |line| {
        line.contains("Topic /numbers not found").then_some(())
    });

    let mut publisher = python::spawn("publisher.py", &[daemon.address(), "/numbers", &data, "20"]);
    let received = json_lines(&subscriber.wait());
    let at = received.iter().position(|line| line["address"] == data.as_str()).unwrap();
    let expected: Vec<_> =
        (0..20).map(|number| json!({"topic": "/numbers", "number": number})).collect();
    assert_eq!(received[at + 1..], expected);

    publisher.close_stdin();
    let replies = json_lines(&publisher.wait());
    let replies = statuses_and_messages(&replies);
    assert_eq!(replies, [(0, "Registered topic: /numbers"), (0, "Unregistered topic: /numbers")]);
}
