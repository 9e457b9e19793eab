//! Measures how fast waiting clients wake after a registration, at several daemons in one run.
//!
//! Start the daemons, then name them:
//!
//! ```sh
//! cargo bench -p cortex-tests --bench wake -- ours=ipc:///tmp/a.sock theirs=ipc:///tmp/b.sock
//! ```
//!
//! A thousand clients, each in its own thread, wait for one topic each. Then the bench registers
//! the thousand topics one by one. It measures the time from the reply to REGISTER to the return
//! of the client's call. It repeats this with one asynchronous client: a thousand waits on one
//! connection.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use cortex_client::{DiscoveryClient, TopicInfo, TopicName};
use tokio::runtime;
use tokio::task::JoinSet;

const CLIENTS: usize = 1000;
const TIMEOUT: Duration = Duration::from_secs(60);
/// After this time all clients have sent their first request.
const SETTLE_TIME: Duration = Duration::from_secs(2);

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
    DiscoveryClient::builder().address(address).timeout(TIMEOUT).build().unwrap()
}

/// Registers all topics one by one and returns the time of each reply.
fn register_all(publisher: &mut DiscoveryClient) -> Vec<Instant> {
    let register = |number| {
        publisher.register_topic(&info(number)).unwrap();
        Instant::now()
    };
    (0..CLIENTS).map(register).collect()
}

fn unregister_all(publisher: &mut DiscoveryClient) {
    for number in 0..CLIENTS {
        publisher.unregister_topic(info(number).name.as_str()).unwrap();
    }
}

/// For each client, the time when its call returned and the time of the reply to REGISTER.
fn measure_blocking(address: &str) -> Vec<(Instant, Instant)> {
    let started = Arc::new(Barrier::new(CLIENTS + 1));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, started) = (address.to_owned(), Arc::clone(&started));
            let wait = move || {
                let client = client(&address);
                started.wait();
                let topic = client.wait_for_topic(info(number).name.as_str(), TIMEOUT).unwrap();
                let woken = Instant::now();
                assert_eq!(topic, info(number));
                woken
            };
            thread::Builder::new().stack_size(256 * 1024).spawn(wait).unwrap()
        })
        .collect();
    started.wait();
    thread::park_timeout(SETTLE_TIME);
    let mut publisher = client(address);
    let registered = register_all(&mut publisher);
    let woken = threads.into_iter().map(|thread| thread.join().unwrap());
    let times = woken.zip(registered).collect();
    unregister_all(&mut publisher);
    times
}

/// As [`measure_blocking`], with the waits of one asynchronous client.
fn measure_async(address: &str) -> Vec<(Instant, Instant)> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let publisher = thread::spawn({
        let address = address.to_owned();
        move || {
            thread::park_timeout(SETTLE_TIME);
            let mut publisher = client(&address);
            (register_all(&mut publisher), publisher)
        }
    });
    let woken = runtime.block_on(async {
        let builder = DiscoveryClient::builder().address(address).timeout(TIMEOUT);
        let client = builder.build_async().unwrap();
        let mut waits = JoinSet::new();
        for number in 0..CLIENTS {
            let client = client.clone();
            waits.spawn(async move {
                let topic = info(number);
                let found = client.wait_for_topic(topic.name.as_str(), TIMEOUT).await.unwrap();
                let woken = Instant::now();
                assert_eq!(found, topic);
                (number, woken)
            });
        }
        waits.join_all().await
    });
    let (registered, mut publisher) = publisher.join().unwrap();
    unregister_all(&mut publisher);
    woken.into_iter().map(|(number, woken)| (woken, registered[number])).collect()
}

fn print_row(label: &str, times: &[(Instant, Instant)]) {
    let mut times: Vec<_> = times
        .iter()
        .map(|(woken, registered)| woken.saturating_duration_since(*registered))
        .collect();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "| {label} | {} of {CLIENTS} | {:.3?} | {:.3?} | {:.3?} |",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}

fn main() {
    println!("| daemon, clients | woken | median | 99 of 100 within | slowest |");
    println!("|---|---|---|---|---|");
    for argument in std::env::args() {
        let Some((name, address)) = argument.split_once('=') else { continue };
        print_row(&format!("{name}, 1,000 blocking clients"), &measure_blocking(address));
        print_row(&format!("{name}, 1,000 waits of an async client"), &measure_async(address));
    }
}
