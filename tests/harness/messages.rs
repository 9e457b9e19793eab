//! Requests and topics as the tests use them.

use cortex_proto::{DiscoveryRequest, DiscoveryResponse, TopicInfo, TopicName};

/// A topic of this name, registered by `node`.
///
/// # Panics
/// When the name cannot be one.
#[must_use]
pub fn topic(name: &str, node: &str) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: format!("ipc:///run/nodes{name}.sock"),
        message_type: "TestMessage".into(),
        fingerprint: 0x1234_5678_9abc_def0,
        publisher_node: node.into(),
    }
}

/// A PING of exactly so many bytes: it carries a filler under a key that nobody knows.
///
/// # Panics
/// When that is too few.
#[must_use]
pub fn ping_of_size(size: usize) -> Vec<u8> {
    let mut bytes = DiscoveryRequest::ping().to_bytes();
    // A map of one entry more, whose value is a bin with a length of four bytes.
    bytes[0] += 1;
    bytes.extend(b"\xa6filler\xc6");
    let filler = size.checked_sub(bytes.len() + 4).expect("room for the filler");
    bytes.extend(u32::try_from(filler).unwrap().to_be_bytes());
    bytes.resize(size, b'x');
    bytes
}

/// Reads a reply of the daemon.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn response(bytes: &[u8]) -> DiscoveryResponse {
    DiscoveryResponse::from_bytes(bytes).unwrap()
}

/// The names of a reply's topics, in its order.
#[must_use]
pub fn names(response: &DiscoveryResponse) -> Vec<&str> {
    response.topics.iter().map(|topic| topic.name.as_str()).collect()
}
