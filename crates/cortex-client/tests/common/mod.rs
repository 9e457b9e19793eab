//! Helpers of several tests.

use cortex_client::{TopicInfo, TopicName};

/// A topic of this name.
pub(crate) fn info(name: &str) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(name).unwrap(),
        address: "ipc:///tmp/cortex/topics/a.sock".into(),
        message_type: "ImageMessage".into(),
        fingerprint: u64::MAX,
        publisher_node: "camera_node".into(),
    }
}
