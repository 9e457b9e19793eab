//! The client where libzmq alone would hang or abort: forks, few descriptors, a stuck resolver.

use std::process::Command;

use cortex_tests::binaries::hazards;
use cortex_tests::daemon::Daemon;
use cortex_tests::process::{Process, ProcessOutput};
use cortex_tests::test_dir::TestDir;

fn run(command: &mut Command) -> String {
    let ProcessOutput { code, signal, stdout, stderr } = Process::spawn_captured(command).wait();
    assert_eq!((code, signal), (Some(0), None), "{stdout}{stderr}");
    stdout
}

/// Runs `cortex-hazards clients` with at most this many descriptors.
fn run_clients(descriptors: usize, count: usize) -> String {
    let daemon = Daemon::start();
    let limited = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limited]).arg(hazards());
    run(command.args(["clients", daemon.address(), &count.to_string()]))
}

#[test]
fn a_forked_child_gets_errors_from_its_parents_client_and_the_parent_notices_nothing() {
    let daemon = Daemon::start();
    let output = run(Command::new(hazards()).args(["fork", daemon.address()]));
    assert!(output.ends_with("the parent has noticed nothing\n"), "{output}");
}

#[test]
fn a_process_with_few_descriptors_has_two_hundred_clients() {
    assert_eq!(run_clients(2048, 200), "made 200 clients\n");
}

#[test]
fn a_shortage_of_descriptors_is_an_error_that_says_so() {
    for limit in [24, 40, 64, 256] {
        let output = run_clients(limit, 200);
        assert!(output.contains("too few free file descriptors"), "{limit}: {output}");
    }
}

#[test]
fn a_stuck_resolver_delays_no_other_client() {
    let daemon = Daemon::start();
    // The resolver opens this file of aliases, and nobody writes to it.
    let directory = TestDir::new();
    let aliases = directory.path("aliases");
    assert!(Command::new("mkfifo").arg(&aliases).status().unwrap().success());
    let mut command = Command::new(hazards());
    command.args(["resolver", daemon.address(), "robot"]).env("HOSTALIASES", &aliases);
    let output = run(&mut command);
    assert!(output.starts_with("14 of 14 other clients have an answer\n"), "{output}");
}
