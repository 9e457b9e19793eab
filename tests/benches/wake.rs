//! How soon waiting clients are told of a topic, in one run beside each other.
//!
//! Start the daemons, then name them:
//!
//! ```sh
//! cargo bench -p cortex-tests --bench wake -- ours=ipc:///tmp/a.sock theirs=ipc:///tmp/b.sock
//! ```
//!
//! A thousand clients, each in a thread of its own, wait for a topic each; then the thousand topics
//! are registered, one after the other. The time is that from a registration's reply to the return
//! of its client's call.

#![expect(clippy::print_stdout, reason = "it is what a benchmark does")]
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use cortex_client::{DiscoveryClient, TopicInfo, TopicName};

const CLIENTS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Until when all clients have asked for the first time.
const SETTLED: Duration = Duration::from_secs(2);

fn info(number: usize) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(format!("/wake/{number}")).unwrap(),
        address: "ipc:///tmp/cortex/topics/camera_node__camera_image.sock".into(),
        message_type: "ImageMessage".into(),
        fingerprint: 0x1234_5678_9abc_def0,
        publisher_node: "camera_node".into(),
    }
}

fn client(address: &str) -> DiscoveryClient {
    DiscoveryClient::builder().address(address).timeout(PATIENCE).build().unwrap()
}

/// The times from reply to wake, from the shortest to the longest.
fn wake(address: &str) -> Vec<Duration> {
    let began = Arc::new(Barrier::new(CLIENTS + 1));
    let waiting: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, began) = (address.to_owned(), Arc::clone(&began));
            let wait = move || {
                let mut client = client(&address);
                began.wait();
                let topic = client.wait_for_topic(info(number).name.as_str(), PATIENCE).unwrap();
                let woken = Instant::now();
                assert_eq!(topic, info(number));
                woken
            };
            thread::Builder::new().stack_size(256 * 1024).spawn(wait).unwrap()
        })
        .collect();
    began.wait();
    thread::park_timeout(SETTLED);
    let mut publisher = client(address);
    let registered: Vec<_> = (0..CLIENTS)
        .map(|number| {
            publisher.register_topic(&info(number)).unwrap();
            Instant::now()
        })
        .collect();
    let mut times: Vec<_> = waiting
        .into_iter()
        .zip(registered)
        .map(|(waiting, registered)| waiting.join().unwrap().saturating_duration_since(registered))
        .collect();
    for number in 0..CLIENTS {
        publisher.unregister_topic(info(number).name.as_str()).unwrap();
    }
    times.sort_unstable();
    times
}

fn main() {
    println!("| daemon | woken | median | 99 of 100 within | slowest |");
    println!("|---|---|---|---|---|");
    for argument in std::env::args() {
        let Some((name, address)) = argument.split_once('=') else { continue };
        let times = wake(address);
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!(
            "| {name} | {} of {CLIENTS} | {:.3?} | {:.3?} | {:.3?} |",
            times.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}
