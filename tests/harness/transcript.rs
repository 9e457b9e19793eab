//! The recorded exchanges with the Python reference.

use std::fs;

use cortex_proto::{DiscoveryResponse, DiscoveryStatus};
use serde_json::Value;

use crate::hex;

/// One recorded exchange.
pub struct Exchange {
    /// What the exchange demonstrates.
    pub label: String,
    /// The request's bytes.
    pub request: Vec<u8>,
    /// The reference's reply.
    pub reply: Vec<u8>,
    comparison: Comparison,
}

#[derive(Clone, Copy)]
enum Comparison {
    Bytes,
    Status,
    Error,
}

/// All recorded exchanges, in order.
///
/// # Panics
/// When the recording is unreadable.
#[must_use]
pub fn exchanges() -> Vec<Exchange> {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/cortex-proto/tests/golden/transcript.json");
    let exchanges: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let exchanges = exchanges.iter().map(|exchange| Exchange {
        label: text(&exchange["label"]),
        request: hex::decode(&text(&exchange["request"])),
        reply: hex::decode(&text(&exchange["reply"])),
        comparison: match text(&exchange["compare"]).as_str() {
            "bytes" => Comparison::Bytes,
            "status" => Comparison::Status,
            "error" => Comparison::Error,
            other => panic!("unknown comparison: {other}"),
        },
    });
    exchanges.collect()
}

impl Exchange {
    /// Whether the reply must be the recorded one, byte for byte.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        matches!(self.comparison, Comparison::Bytes)
    }

    /// Compares our daemon's reply with the recorded one.
    ///
    /// # Panics
    /// When it differs in what must match.
    pub fn check(&self, reply: &[u8]) {
        let label = &self.label;
        match self.comparison {
            Comparison::Bytes => assert_eq!(printable(reply), printable(&self.reply), "{label}"),
            Comparison::Status => assert_eq!(status(reply), status(&self.reply), "{label}"),
            Comparison::Error => assert_eq!(status(reply), DiscoveryStatus::Error, "{label}"),
        }
    }
}

/// The status of a reply.
///
/// # Panics
/// When the bytes are not a reply.
#[must_use]
pub fn status(reply: &[u8]) -> DiscoveryStatus {
    DiscoveryResponse::from_bytes(reply).unwrap().status
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
