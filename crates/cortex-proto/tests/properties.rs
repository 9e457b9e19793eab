//! Properties over all messages and over all bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestedCommand, TopicInfo, TopicName,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

prop_compose! {
    fn topic_infos()(
        name in "\\PC{1,80}",
        address in "\\PC{0,300}",
        message_type in "\\PC{0,40}",
        fingerprint: u64,
        publisher_node in "\\PC{0,40}",
    ) -> TopicInfo {
        TopicInfo {
            name: TopicName::new(name).unwrap(),
            address,
            message_type,
            fingerprint,
            publisher_node,
        }
    }
}

prop_compose! {
    fn requests()(
        number in prop_oneof![
            (0..120_i128).boxed(),
            (i128::from(i64::MIN)..=i128::from(u64::MAX)).boxed(),
        ],
        topic_name in option::of("\\PC{0,80}"),
        topic_info in option::of(topic_infos()),
    ) -> DiscoveryRequest {
        let command = RequestedCommand::from_number(number);
        DiscoveryRequest { command, topic_name, topic_info }
    }
}

prop_compose! {
    fn responses()(
        status in 0..4_i128,
        message in "\\PC{0,80}",
        topic_info in option::of(topic_infos()),
        topics in vec(topic_infos(), 0..20),
    ) -> DiscoveryResponse {
        let status = DiscoveryStatus::from_number(status).unwrap();
        DiscoveryResponse { status, message, topic_info, topics }
    }
}

fn decode_all(bytes: &[u8]) {
    // What reads must pack to a message that reads as the same.
    if let Ok(request) = DiscoveryRequest::from_bytes(bytes) {
        assert_eq!(DiscoveryRequest::from_bytes(&request.to_bytes()), Ok(request));
    }
    if let Ok(response) = DiscoveryResponse::from_bytes(bytes) {
        assert_eq!(DiscoveryResponse::from_bytes(&response.to_bytes()), Ok(response));
    }
    if let Ok(info) = TopicInfo::from_bytes(bytes) {
        assert_eq!(TopicInfo::from_bytes(&info.to_bytes()), Ok(info));
    }
}

proptest! {
    #[test]
    fn requests_round_trip(request in requests()) {
        prop_assert_eq!(DiscoveryRequest::from_bytes(&request.to_bytes()), Ok(request));
    }

    #[test]
    fn responses_round_trip(response in responses()) {
        prop_assert_eq!(DiscoveryResponse::from_bytes(&response.to_bytes()), Ok(response));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn a_message_with_a_changed_byte_is_decoded_or_refused(
        request in requests(),
        response in responses(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        for mut bytes in [request.to_bytes(), response.to_bytes()] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            decode_all(&bytes);
        }
    }
}
