//! The thread of a client. The test is alone in its process, so that it can count
//! the threads.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::info;
use cortex_client::DiscoveryClient;

/// The number of clients' threads.
fn client_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.trim_end() == "cortex-client").count()
}

/// A thread takes its name when it runs, and has it until it has ended.
fn wait_for_threads(count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while client_threads() != count {
        assert!(Instant::now() < deadline, "{} threads instead of {count}", client_threads());
        thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_client_has_one_thread_until_the_last_of_its_handles_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}/discovery.sock", directory.path().display());
    let client = DiscoveryClient::connect(address).unwrap();
    let first = client.advertise(info("/first")).unwrap();
    let watch = client.watch(None).unwrap();
    thread::scope(|scope| {
        let client = client.clone();
        scope.spawn(move || {
            let all: Vec<_> = (0..100)
                .map(|number| client.advertise(info(&format!("/{number}"))).unwrap())
                .collect();
            wait_for_threads(1);
            for advertisement in all {
                scope.spawn(move || drop(advertisement));
            }
        });
    });
    drop(client);
    drop(first);
    wait_for_threads(1);
    drop(watch);
    wait_for_threads(0);
}
