//! Requests and topics that several tests use.

use std::collections::BTreeMap;

use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, Hold, RequestExt, Session, TopicInfo, TopicName,
};

/// A topic of the node `node`.
///
/// # Panics
/// When the name is invalid.
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

/// A PING of exactly `size` bytes: it carries a filler under an unknown key.
///
/// # Panics
/// When `size` is too small.
#[must_use]
pub fn ping_of_size(size: usize) -> Vec<u8> {
    let mut bytes = DiscoveryRequest::ping().to_bytes();
    // The map gets one more entry: a bin whose length has four bytes.
    bytes[0] += 1;
    bytes.extend(b"\xa6filler\xc6");
    let filler = size.checked_sub(bytes.len() + 4).expect("room for the filler");
    bytes.extend(u32::try_from(filler).unwrap().to_be_bytes());
    bytes.resize(size, b'x');
    bytes
}

/// Decodes a reply of the daemon.
///
/// # Panics
/// When the bytes are not a reply.
#[must_use]
pub fn decode_response(bytes: &[u8]) -> DiscoveryResponse {
    DiscoveryResponse::from_bytes(bytes).unwrap()
}

/// The names of the topics in a reply, in order.
#[must_use]
pub fn topic_names(response: &DiscoveryResponse) -> Vec<&str> {
    response.topics.iter().map(|topic| topic.name.as_str()).collect()
}

/// A topic of the node `node` with this endpoint.
#[must_use]
pub fn topic_at(name: &str, node: &str, address: &str) -> TopicInfo {
    TopicInfo { address: address.into(), ..topic(name, node) }
}

/// A PING with `ext`: a daemon of level 1 describes itself in the reply.
#[must_use]
pub fn hello() -> DiscoveryRequest {
    DiscoveryRequest::ping().with_ext(RequestExt::default())
}

/// A REGISTER with the hold `static`: the topic stays until an UNREGISTER.
#[must_use]
pub fn register_static(topic: TopicInfo) -> DiscoveryRequest {
    let hold = Some(Hold::Static);
    DiscoveryRequest::register(topic).with_ext(RequestExt { hold, ..RequestExt::default() })
}

/// A REGISTER with the hold `session`: the topic stays as long as the session.
#[must_use]
pub fn register_in_session(topic: TopicInfo, id: &str, lease_ms: u64) -> DiscoveryRequest {
    let session = Some(Session { id: id.into(), lease_ms: Some(lease_ms) });
    let hold = Some(Hold::Session);
    DiscoveryRequest::register(topic).with_ext(RequestExt {
        hold,
        session,
        ..RequestExt::default()
    })
}

/// How many requests a daemon has parked, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedRequests {
    /// Parked WAIT requests.
    pub waits: u64,
    /// Parked WATCH requests.
    pub watches: u64,
}

impl ParkedRequests {
    /// No request is parked.
    pub const NONE: Self = Self { waits: 0, watches: 0 };

    /// Reads the numbers from the counters of STATS.
    #[must_use]
    pub fn from_counters(counters: &BTreeMap<String, u64>) -> Self {
        Self { waits: counters["waits"], watches: counters["watches"] }
    }
}
