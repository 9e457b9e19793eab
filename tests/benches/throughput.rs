//! Measures how many requests per second several daemons answer, in one run.
//!
//! Start the daemons, then name them. The last one is the baseline:
//!
//! ```sh
//! cargo bench -p cortex-tests --bench throughput -- ours=ipc:///tmp/a.sock theirs=ipc:///tmp/b.sock
//! ```
//!
//! One thread sends raw bytes; each connection has one outstanding request. The bench measures the
//! daemons in turn, so that a change of the machine's speed affects all of them. It prints the
//! medians and the ratio of the first daemon to the last.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, TopicInfo, TopicName};
use cortex_tests::raw_peer::RawPeer;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);
const TOPICS: usize = 1000;

struct Target {
    name: String,
    address: String,
}

fn info(name: &str) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: "ipc:///tmp/cortex/topics/camera_node__camera_image.sock".into(),
        message_type: "ImageMessage".into(),
        fingerprint: 0x1234_5678_9abc_def0,
        publisher_node: "camera_node".into(),
    }
}

/// The bytes of a request on the wire, and the size of its reply on the wire.
struct EncodedRequest {
    bytes: Vec<u8>,
    reply_size: usize,
}

/// Sends each request once to learn the size of its reply, which can then be read in one call.
fn encode(daemon: &Target, requests: &[DiscoveryRequest]) -> Vec<EncodedRequest> {
    let mut peer = RawPeer::open(&daemon.address).unwrap();
    let encode = |request: &DiscoveryRequest| {
        let body = peer.request_bytes(&request.to_bytes()).unwrap().len();
        // The delimiter, and a header whose length depends on the body's length.
        let reply_size = 2 + if body < 256 { 2 } else { 9 } + body;
        EncodedRequest {
            bytes: cortex_tests::raw_peer::request_message(&request.to_bytes()),
            reply_size,
        }
    };
    requests.iter().map(encode).collect()
}

/// Requests per second over `connections`, each with one outstanding request.
fn rate(daemon: &Target, connections: usize, requests: &[EncodedRequest]) -> f64 {
    let mut peers: Vec<_> =
        (0..connections).map(|_| RawPeer::open(&daemon.address).unwrap()).collect();
    let mut next = requests.iter().cycle();
    let (start, mut answered) = (Instant::now(), 0_u32);
    while start.elapsed() < ROUND {
        let round: Vec<_> = next.by_ref().take(connections).collect();
        for (peer, encoded) in peers.iter_mut().zip(&round) {
            peer.send(&encoded.bytes).unwrap();
        }
        for (peer, encoded) in peers.iter_mut().zip(&round) {
            peer.read_exactly(encoded.reply_size).unwrap();
            answered += 1;
        }
    }
    f64::from(answered) / start.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Measures one load at all daemons in turn and prints a row.
fn compare(label: &str, daemons: &[Target], connections: usize, requests: &[DiscoveryRequest]) {
    let encoded: Vec<_> = daemons.iter().map(|daemon| encode(daemon, requests)).collect();
    let mut rates = vec![Vec::new(); daemons.len()];
    for _ in 0..ROUNDS {
        for ((daemon, encoded), rates) in daemons.iter().zip(&encoded).zip(&mut rates) {
            rates.push(rate(daemon, connections, encoded));
        }
    }
    let medians: Vec<_> = rates.into_iter().map(median).collect();
    print!("| {label} | {connections} |");
    for median in &medians {
        print!(" {median:.0} |");
    }
    println!(" {:.1} |", medians[0] / medians[medians.len() - 1]);
}

fn main() {
    let daemons: Vec<_> = std::env::args()
        .filter_map(|argument| {
            let (name, address) = argument.split_once('=')?;
            Some(Target { name: name.to_owned(), address: address.to_owned() })
        })
        .collect();
    if daemons.is_empty() {
        println!("name the daemons to measure: NAME=ADDRESS …");
        return;
    }
    let names: Vec<_> = daemons.iter().map(|daemon| daemon.name.as_str()).collect();
    println!("| requests a second | connections | {} | ratio |", names.join(" | "));
    println!("|---|---|{}---|", "---|".repeat(daemons.len()));

    let name = |number: usize| format!("/bench/topic_{number}");
    let ping = [DiscoveryRequest::ping()];
    compare("PING", &daemons, 1, &ping);
    compare("PING", &daemons, 64, &ping);
    let register: Vec<_> =
        (0..TOPICS).map(|number| DiscoveryRequest::register(info(&name(number)))).collect();
    let unregister: Vec<_> =
        (0..TOPICS).map(|number| DiscoveryRequest::unregister(name(number))).collect();
    for connections in [1, 64] {
        // All connections register, then all unregister, so every request changes the registry.
        let rounds = register.chunks_exact(connections).zip(unregister.chunks_exact(connections));
        let changes: Vec<_> = rounds.flat_map(|(one, other)| [one, other].concat()).collect();
        compare("REGISTER and UNREGISTER", &daemons, connections, &changes);
    }
    for daemon in &daemons {
        let mut peer = RawPeer::open(&daemon.address).unwrap();
        for request in &register {
            peer.request_bytes(&request.to_bytes()).unwrap();
        }
    }
    let lookup: Vec<_> = (0..TOPICS).map(|number| DiscoveryRequest::lookup(name(number))).collect();
    compare("LOOKUP, 1,000 topics", &daemons, 64, &lookup);
    compare("LIST, 1,000 topics", &daemons, 16, &[DiscoveryRequest::list()]);
}
