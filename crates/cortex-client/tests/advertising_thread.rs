//! The thread of a client's advertisements. The test is alone in its process, so that it can count
//! the threads.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::info;
use cortex_client::DiscoveryClient;

/// The number of advertising threads. The system keeps 15 bytes of a thread's name.
fn advertising() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.trim_end() == "cortex-advertis").count()
}

#[test]
fn a_client_has_one_thread_while_it_has_advertisements() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}/discovery.sock", directory.path().display());
    let mut client = DiscoveryClient::connect(address).unwrap();
    assert_eq!(advertising(), 0, "no thread before the first advertisement");

    let first = client.advertise(info("/first")).unwrap();
    thread::scope(|scope| {
        let client = &mut client;
        scope.spawn(move || {
            let all: Vec<_> = (0..100)
                .map(|number| client.advertise(info(&format!("/{number}"))).unwrap())
                .collect();
            assert_eq!(advertising(), 1);
            for advertisement in all {
                scope.spawn(move || drop(advertisement));
            }
        });
    });
    drop(client);
    assert_eq!(advertising(), 1);
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(30);
    while advertising() > 0 {
        assert!(Instant::now() < deadline, "the thread outlives its last handle");
        thread::park_timeout(Duration::from_millis(2));
    }
}
