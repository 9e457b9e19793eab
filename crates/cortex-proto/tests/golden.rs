//! Encoding and decoding compared with bytes from other implementations: the recorded transcript with
//! the reference, and edge values that Python's msgpack encoded.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, EndpointState, EntryExt, EventExt,
    EventKind, Hold, RemovalReason, RequestExt, RequestedCommand, ResponseExt, Session, Since,
    TopicInfo, TopicName,
};
use serde_json::Value;

fn fixture(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn transcript() -> Vec<Value> {
    fixture(include_str!("golden/transcript.json"))
}

fn edge_values() -> Vec<Value> {
    fixture(include_str!("golden/edge_values.json"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn from_hex(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn topic_info(fields: &Value) -> TopicInfo {
    TopicInfo {
        name: TopicName::new(text(&fields["name"])).unwrap(),
        address: text(&fields["address"]),
        message_type: text(&fields["message_type"]),
        fingerprint: text(&fields["fingerprint"]).parse().unwrap(),
        publisher_node: text(&fields["publisher_node"]),
    }
}

fn optional_topic_info(fields: &Value) -> Option<TopicInfo> {
    (!fields.is_null()).then(|| topic_info(fields))
}

/// A number, which the fixture has as text: JSON numbers lose precision.
fn number(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.parse().unwrap())
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn request_ext(fields: &Value) -> Option<RequestExt> {
    let session = &fields["session"];
    fields.is_object().then(|| RequestExt {
        hold: fields["hold"].as_str().map(Hold::from),
        session: word(&session["id"])
            .map(|id| Session { id, lease_ms: number(&session["lease_ms"]) }),
        publisher_node: word(&fields["publisher_node"]),
        revision: number(&fields["revision"]),
        filter: word(&fields["filter"]),
        since: number(&fields["since"]["epoch"])
            .zip(number(&fields["since"]["revision"]))
            .map(|(epoch, revision)| Since { epoch, revision }),
        wait_ms: number(&fields["wait_ms"]),
        limit: number(&fields["limit"]),
    })
}

fn event(fields: &Value) -> EventExt {
    EventExt {
        kind: EventKind::from(fields["kind"].as_str().unwrap()),
        revision: number(&fields["revision"]).unwrap(),
        topic_name: text(&fields["topic_name"]),
        topic_info: topic_info(&fields["topic_info"]),
        reason: fields["reason"].as_str().map(RemovalReason::from),
    }
}

fn entry(fields: &Value) -> EntryExt {
    EntryExt {
        uid: number(&fields["uid"]),
        pid: number(&fields["pid"]),
        hold: Hold::from(fields["hold"].as_str().unwrap()),
        revision: number(&fields["revision"]).unwrap(),
        age_ms: number(&fields["age_ms"]).unwrap(),
        endpoint: EndpointState::from(fields["endpoint"].as_str().unwrap()),
        endpoint_reason: fields["endpoint_reason"].as_str().map(str::to_owned),
    }
}

fn response_ext(fields: &Value) -> Option<ResponseExt> {
    fields.is_object().then(|| ResponseExt {
        level: number(&fields["level"]),
        server: word(&fields["server"]),
        epoch: number(&fields["epoch"]),
        revision: number(&fields["revision"]),
        pid: number(&fields["pid"]),
        uptime_ms: number(&fields["uptime_ms"]),
        topics: number(&fields["topics"]),
        cancel: fields["cancel"].as_bool(),
        entry: fields["entry"].is_object().then(|| entry(&fields["entry"])),
        entries: fields["entries"].as_array().map(|all| all.iter().map(entry).collect()),
        lease_ms: number(&fields["lease_ms"]),
        known: fields["known"].as_bool(),
        cancelled: number(&fields["cancelled"]),
        snapshot: fields["snapshot"].as_bool(),
        events: fields["events"].as_array().map(|all| all.iter().map(event).collect()),
        counts: ["connections", "waits", "evicted"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), number(&fields[name])?)))
            .collect(),
    })
}

fn request(fields: &Value) -> DiscoveryRequest {
    DiscoveryRequest {
        command: RequestedCommand::from_number(text(&fields["command"]).parse().unwrap()),
        topic_name: fields["topic_name"].as_str().map(str::to_owned),
        topic_info: optional_topic_info(&fields["topic_info"]),
        ext: request_ext(&fields["ext"]),
    }
}

fn response(fields: &Value) -> DiscoveryResponse {
    DiscoveryResponse {
        status: DiscoveryStatus::from_number(fields["status"].as_i64().unwrap().into()).unwrap(),
        message: text(&fields["message"]),
        topic_info: optional_topic_info(&fields["topic_info"]),
        topics: fields["topics"].as_array().unwrap().iter().map(topic_info).collect(),
        ext: response_ext(&fields["ext"]),
    }
}

#[test]
fn edge_values_are_encoded_and_decoded_as_in_python() {
    let items = edge_values();
    assert!(items.len() > 60, "the fixture is complete");
    for item in items {
        let (label, fields) = (&item["label"], &item["fields"]);
        let bytes = from_hex(&item["bytes"]);
        match item["kind"].as_str().unwrap() {
            "topic_info" => {
                let expected = topic_info(&fields["topic_info"]);
                assert_eq!(TopicInfo::from_bytes(&bytes).unwrap(), expected, "{label}");
                assert_eq!(expected.to_bytes(), bytes, "{label}");
            }
            "request" => {
                let expected = request(fields);
                assert_eq!(DiscoveryRequest::from_bytes(&bytes).unwrap(), expected, "{label}");
                assert_eq!(expected.to_bytes(), bytes, "{label}");
            }
            "response" => {
                let expected = response(fields);
                assert_eq!(DiscoveryResponse::from_bytes(&bytes).unwrap(), expected, "{label}");
                assert_eq!(expected.to_bytes(), bytes, "{label}");
            }
            kind => panic!("{label}: {kind} is not a kind of message"),
        }
    }
}

#[test]
fn every_recorded_reply_round_trips_to_the_same_bytes() {
    for step in transcript() {
        let bytes = from_hex(&step["reply"]);
        let response = DiscoveryResponse::from_bytes(&bytes).unwrap();
        assert_eq!(response.to_bytes(), bytes, "{}", step["label"]);
    }
}

/// Recorded requests that decode, but encode to other bytes than the recorded ones.
const NOT_CANONICAL: [(&str, &str); 7] = [
    ("register with nil topic_info", "a nil topic_info is left out"),
    ("register with empty topic_info", "an empty topic_info is left out"),
    ("keys in another order", "command goes first"),
    ("command as uint16", "5 fits into a fixint"),
    ("no topic_name key", "topic_name is packed as nil"),
    ("an unknown top-level key is ignored", "and is not kept"),
    (
        "topic_info keys in another order come back in the canonical one",
        "the inner map is packed in the canonical order",
    ),
];

/// Recorded requests that do not decode, with their errors.
const UNREADABLE: [(&str, &str); 13] = [
    ("empty body", "at byte 0: the message ends too early: 1 B are needed here, 0 B are left"),
    ("nil", "at byte 0: expected a map, found nil"),
    ("array", "at byte 0: expected a map, found an array"),
    (
        "truncated map",
        "topic_name at byte 21: the message ends too early: 1 B are needed here, 0 B are left",
    ),
    ("trailing byte", "at byte 22: 1 B too many after the message"),
    ("no command", "at byte 0: `command` is missing"),
    ("topic_info with an unknown key", "topic_info at byte 151: `zzz` does not belong here"),
    ("topic_info with a key missing", "topic_info at byte 35: `address` is missing"),
    (
        "topic_info as a map instead of bytes",
        "topic_info at byte 33: expected bytes or nil, found a map",
    ),
    ("invalid UTF-8 in the name", "topic_name at byte 22: the text is not UTF-8"),
    ("register with an empty name", "topic_info.name at byte 41: a topic name cannot be empty"),
    ("register with a nil name", "topic_info.name at byte 41: expected text, found nil"),
    (
        "register with a negative fingerprint",
        "topic_info.fingerprint at byte 132: expected an unsigned integer of 64 bits, found -5",
    ),
];

#[test]
fn every_recorded_request_is_canonical_or_listed() {
    for step in transcript() {
        let label = step["label"].as_str().unwrap();
        let bytes = from_hex(&step["request"]);
        let unreadable = UNREADABLE.iter().find(|(listed, _)| *listed == label);
        let not_canonical = NOT_CANONICAL.iter().any(|(listed, _)| *listed == label);
        match (DiscoveryRequest::from_bytes(&bytes), unreadable) {
            (Ok(request), None) => {
                assert_eq!(request.to_bytes() != bytes, not_canonical, "{label}");
                let again = DiscoveryRequest::from_bytes(&request.to_bytes()).unwrap();
                assert_eq!(again, request, "{label}");
            }
            (Err(error), Some((_, expected))) => {
                assert_eq!(error.to_string(), *expected, "{label}");
            }
            (Ok(_), Some(_)) => panic!("{label}: decodes, but is listed as unreadable"),
            (Err(error), None) => panic!("{label}: {error}"),
        }
    }
}

#[test]
fn the_exceptions_name_only_recorded_requests() {
    let labels: Vec<_> = transcript().iter().map(|step| text(&step["label"])).collect();
    for (label, _) in NOT_CANONICAL.iter().chain(&UNREADABLE) {
        assert!(
            labels.iter().any(|recorded| recorded == label),
            "{label} is not in the transcript"
        );
    }
}

/// Hex in rows of 16 bytes, with the printable characters beside them.
fn dump(bytes: &[u8]) -> String {
    let row = |bytes: &[u8]| {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = bytes.iter().map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        });
        format!("{:<47}  {}", hex.join(" "), shown.collect::<String>())
    };
    // The long edge values repeat one byte, so the start and the end show the difference.
    if bytes.len() <= 512 {
        return bytes.chunks(16).map(row).collect::<Vec<_>>().join("\n");
    }
    let start = bytes[..256].chunks(16).map(row);
    let end = bytes[bytes.len() - 128..].chunks(16).map(row);
    let middle = format!("... {} bytes in all ...", bytes.len());
    start.chain([middle]).chain(end).collect::<Vec<_>>().join("\n")
}

#[test]
fn golden_bytes_of_this_encoder() {
    let mut dumps = String::new();
    for item in edge_values() {
        let fields = &item["fields"];
        let kind = text(&item["kind"]);
        let bytes = match kind.as_str() {
            "topic_info" => topic_info(&fields["topic_info"]).to_bytes(),
            "request" => request(fields).to_bytes(),
            _ => response(fields).to_bytes(),
        };
        dumps.extend(["# ", &kind, ": ", &text(&item["label"]), "\n", &dump(&bytes), "\n\n"]);
    }
    insta::assert_snapshot!(dumps);
}
