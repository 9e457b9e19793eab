//! Replies, and their bytes.

use std::sync::Arc;

use cortex_proto::{DiscoveryStatus, EncodedResponse, EncodedWatchExt, ResponseExt};

use crate::peer::ReplyTo;

/// A reply to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The connection and the envelope.
    pub to: ReplyTo,
    /// How the request ended.
    pub status: DiscoveryStatus,
    /// Its bytes, or the values from which the edge packs them.
    pub body: ReplyBody,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// The reply's bytes. One allocation may serve many peers.
    Packed(Arc<[u8]>),
    /// The reply to STATS, which lacks the counters of the edge.
    Stats(Stats),
}

/// The registry's part of a reply to STATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The present revision.
    pub revision: u64,
    /// How long the daemon has been running, in ms.
    pub uptime_ms: u64,
    /// The number of topics.
    pub topics: u64,
    /// Counters and gauges by name.
    pub counts: Vec<(&'static str, u64)>,
}

impl ReplyBody {
    /// The reply's bytes. `edge_counts` are the counters and gauges of the edge, for STATS.
    #[must_use]
    pub fn into_bytes(self, edge_counts: impl FnOnce() -> Vec<(&'static str, u64)>) -> Arc<[u8]> {
        let stats = match self {
            Self::Packed(bytes) => return bytes,
            Self::Stats(stats) => stats,
        };
        let counts = stats.counts.into_iter().chain(edge_counts());
        let ext = ResponseExt {
            revision: Some(stats.revision),
            uptime_ms: Some(stats.uptime_ms),
            topics: Some(stats.topics),
            counts: counts.map(|(name, count)| (name.to_owned(), count)).collect(),
            ..ResponseExt::default()
        };
        pack(DiscoveryStatus::Ok, "", Some(&ext))
    }
}

/// A reply without topics.
pub(super) fn pack(status: DiscoveryStatus, message: &str, ext: Option<&ResponseExt>) -> Arc<[u8]> {
    EncodedResponse { status, message, topic_info: None, topics: &[], ext }.to_bytes().into()
}

/// The reply that one topic was found.
pub(super) fn pack_topic(topic_info: &[u8], ext: Option<&ResponseExt>) -> Arc<[u8]> {
    let (status, topic_info) = (DiscoveryStatus::Ok, Some(topic_info));
    EncodedResponse { status, message: "", topic_info, topics: &[], ext }.to_bytes().into()
}

/// A reply with topics.
pub(super) fn pack_topics(topics: &[Arc<[u8]>], ext: Option<&ResponseExt>) -> Arc<[u8]> {
    let topics = &*borrow(topics);
    let status = DiscoveryStatus::Ok;
    EncodedResponse { status, message: "", topic_info: None, topics, ext }.to_bytes().into()
}

/// A reply to WATCH.
pub(super) fn pack_watch(topics: &[Arc<[u8]>], ext: &EncodedWatchExt<'_>) -> Arc<[u8]> {
    let (topics, ext) = (&*borrow(topics), Some(ext));
    let status = DiscoveryStatus::Ok;
    EncodedResponse { status, message: "", topic_info: None, topics, ext }.to_bytes().into()
}

fn borrow(topics: &[Arc<[u8]>]) -> Vec<&[u8]> {
    topics.iter().map(|packed| &**packed).collect()
}
