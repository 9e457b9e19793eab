//! The thread behind advertisements, alone in its process so that it can be counted.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::info;
use cortex_client::DiscoveryClient;

/// How many threads advertise. The system keeps 15 letters of a name.
fn advertising() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.trim_end() == "cortex-advertis").count()
}

#[test]
fn there_is_one_for_as_long_as_somebody_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}/discovery.sock", directory.path().display());
    let mut client = DiscoveryClient::connect(address).unwrap();
    assert_eq!(advertising(), 0, "not before there is something to advertise");

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
        assert!(Instant::now() < deadline, "it goes on without anybody");
        thread::park_timeout(Duration::from_millis(2));
    }
}
