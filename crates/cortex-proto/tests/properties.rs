//! Properties of encoding and decoding, for any message and for any bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, EncodedEvent, EncodedResponse,
    EncodedWatchExt, EndpointState, EntryExt, EventExt, EventKind, Hold, RemovalReason, RequestExt,
    RequestedCommand, ResponseExt, Session, Since, TopicInfo, TopicName,
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
        ext in option::of(request_exts()),
    ) -> DiscoveryRequest {
        let command = RequestedCommand::from_number(number);
        DiscoveryRequest { command, topic_name, topic_info, ext }
    }
}

prop_compose! {
    fn responses()(
        status in 0..4_i128,
        message in "\\PC{0,80}",
        topic_info in option::of(topic_infos()),
        topics in vec(topic_infos(), 0..20),
        ext in option::of(response_exts()),
    ) -> DiscoveryResponse {
        let status = DiscoveryStatus::from_number(status).unwrap();
        DiscoveryResponse { status, message, topic_info, topics, ext }
    }
}

fn holds() -> impl Strategy<Value = Hold> {
    "process|session|static|[a-z]{1,9}".prop_map(|word| Hold::from(&*word))
}

prop_compose! {
    fn request_exts()(
        hold in option::of(holds()),
        session in option::of(("\\PC{0,80}", option::of(any::<u64>()))),
        publisher_node in option::of("\\PC{0,40}"),
        filter in option::of("\\PC{0,40}"),
        since: Option<(u64, u64)>,
        numbers: [Option<u64>; 3],
    ) -> RequestExt {
        let session = session.map(|(id, lease_ms)| Session { id, lease_ms });
        let since = since.map(|(epoch, revision)| Since { epoch, revision });
        let [revision, wait_ms, limit] = numbers;
        RequestExt { hold, session, publisher_node, revision, filter, since, wait_ms, limit }
    }
}

prop_compose! {
    fn entries()(
        uid: Option<u64>,
        pid: Option<u64>,
        hold in holds(),
        revision: u64,
        age_ms: u64,
        endpoint in "unknown|alive|dead|orphaned|unreachable|[a-z]{1,9}",
        endpoint_reason: Option<String>,
    ) -> EntryExt {
        let endpoint = EndpointState::from(&*endpoint);
        EntryExt { uid, pid, hold, revision, age_ms, endpoint, endpoint_reason }
    }
}

prop_compose! {
    fn events()(
        kind in "registered|updated|unregistered|evicted|[a-z]{1,9}",
        revision: u64,
        topic_info in topic_infos(),
        reason in option::of("unregistered|owner exited|lease expired|endpoint dead|[a-z]{1,9}"),
    ) -> EventExt {
        EventExt {
            kind: EventKind::from(&*kind),
            revision,
            topic_name: topic_info.name.to_string(),
            topic_info,
            reason: reason.map(|word| RemovalReason::from(&*word)),
        }
    }
}

prop_compose! {
    fn response_exts()(
        numbers: [Option<u64>; 8],
        server in option::of("\\PC{0,40}"),
        cancel: Option<bool>,
        known: Option<bool>,
        entry in option::of(entries()),
        entries in option::of(vec(entries(), 0..20)),
        snapshot: Option<bool>,
        events in option::of(vec(events(), 0..5)),
        counts in proptest::collection::btree_map("count_[a-z]{1,9}", any::<u64>(), 0..5),
    ) -> ResponseExt {
        let [level, epoch, revision, pid, uptime_ms, topics, lease_ms, cancelled] = numbers;
        ResponseExt {
            level, server, epoch, revision, pid, uptime_ms, topics, cancel, entry, entries, lease_ms,
            known, cancelled, snapshot, events, counts,
        }
    }
}

fn decode_all(bytes: &[u8]) {
    // A decoded message must encode to bytes that decode to the same message.
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
    fn encoded_events_have_the_same_bytes(
        epoch: u64,
        revision: u64,
        snapshot: Option<bool>,
        events in option::of(vec(events(), 0..20)),
    ) {
        let ext = ResponseExt {
            epoch: Some(epoch),
            revision: Some(revision),
            snapshot,
            events: events.clone(),
            ..ResponseExt::default()
        };
        let plain = DiscoveryResponse {
            ext: Some(ext),
            ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
        };

        let parts: Vec<_> = events.iter().flatten().map(|event| (
            event,
            event.kind.to_string(),
            event.topic_info.to_bytes(),
            event.reason.as_ref().map(ToString::to_string),
        )).collect();
        let packed: Vec<_> = parts.iter().map(|(event, kind, info, reason)| EncodedEvent {
            kind,
            revision: event.revision,
            topic_name: &event.topic_name,
            topic_info: info,
            reason: reason.as_deref(),
        }).collect();
        let events = events.is_some().then_some(&*packed);
        let encoded = EncodedResponse {
            status: DiscoveryStatus::Ok,
            message: "",
            topic_info: None,
            topics: &[],
            ext: Some(&EncodedWatchExt { epoch, revision, snapshot, events }),
        };
        prop_assert_eq!(encoded.to_bytes(), plain.to_bytes());
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
