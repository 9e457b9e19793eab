//! The inputs that decoding accepts and refuses, and the errors that it reports.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_proto::{
    DecodeError, DecodeErrorKind, DiscoveryCommand, DiscoveryRequest, DiscoveryResponse,
    DiscoveryStatus, RequestedCommand, TopicInfo, TopicName,
};

/// Joins a map header and its entries to one message.
fn message(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn text(text: &str) -> Vec<u8> {
    [&[0xd9, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn info() -> TopicInfo {
    TopicInfo {
        name: TopicName::new("/x").unwrap(),
        address: "ipc:///x".into(),
        message_type: "M".into(),
        fingerprint: 7,
        publisher_node: "n".into(),
    }
}

fn request_error(bytes: &[u8]) -> DecodeError {
    DiscoveryRequest::from_bytes(bytes).unwrap_err()
}

fn wrong_type(expected: &'static str, found: &'static str) -> DecodeErrorKind {
    DecodeErrorKind::WrongType { expected, found }
}

/// A LOOKUP request with this encoded value as its `topic_name`.
fn lookup_of(value: &[u8]) -> Vec<u8> {
    message(&[b"\x82\xa7command\x03\xaatopic_name", value])
}

/// A REGISTER request with this encoded value as its `topic_info`.
fn register_of(value: &[u8]) -> Vec<u8> {
    message(&[b"\x82\xa7command\x01\xaatopic_info", value])
}

/// A PING request with an unknown key that has this encoded value.
fn ping_with(value: &[u8]) -> Vec<u8> {
    message(&[b"\x82\xa7command\x05\xa3zzz", value])
}

#[test]
fn every_width_of_an_integer_is_read() {
    let five: [&[u8]; 9] = [
        b"\x05",
        b"\xcc\x05",
        b"\xcd\0\x05",
        b"\xce\0\0\0\x05",
        b"\xcf\0\0\0\0\0\0\0\x05",
        b"\xd0\x05",
        b"\xd1\0\x05",
        b"\xd2\0\0\0\x05",
        b"\xd3\0\0\0\0\0\0\0\x05",
    ];
    for packed in five {
        let bytes = message(&[b"\x81\xa7command", packed]);
        assert_eq!(DiscoveryRequest::from_bytes(&bytes), Ok(DiscoveryRequest::ping()));

        let inner = message(&[
            b"\x85\xa4name\xa2/x\xa7address\xa8ipc:///x\xacmessage_type\xa1M\xabfingerprint",
            packed,
            b"\xaepublisher_node\xa1n",
        ]);
        let expected = TopicInfo { fingerprint: 5, ..info() };
        assert_eq!(TopicInfo::from_bytes(&inner), Ok(expected));
    }
}

#[test]
fn every_width_of_a_text_is_read() {
    for header in [&b"\xa2"[..], b"\xd9\x02", b"\xda\0\x02", b"\xdb\0\0\0\x02"] {
        let bytes = lookup_of(&message(&[header, b"/x"]));
        assert_eq!(DiscoveryRequest::from_bytes(&bytes), Ok(DiscoveryRequest::lookup("/x")));
    }
}

#[test]
fn every_width_of_bytes_is_read() {
    let inner = info().to_bytes();
    let length = u8::try_from(inner.len()).unwrap();
    for header in [&[0xc4, length][..], &[0xc5, 0, length], &[0xc6, 0, 0, 0, length]] {
        let bytes = register_of(&message(&[header, &inner]));
        assert_eq!(DiscoveryRequest::from_bytes(&bytes), Ok(DiscoveryRequest::register(info())));
    }
}

#[test]
fn every_width_of_a_map_and_an_array_is_read() {
    for header in [&b"\x81"[..], b"\xde\0\x01", b"\xdf\0\0\0\x01"] {
        let bytes = message(&[header, b"\xa7command\x05"]);
        assert_eq!(DiscoveryRequest::from_bytes(&bytes), Ok(DiscoveryRequest::ping()));
    }
    let inner = info().to_bytes();
    let topic = message(&[&[0xc4, u8::try_from(inner.len()).unwrap()], &inner]);
    for header in [&b"\x91"[..], b"\xdc\0\x01", b"\xdd\0\0\0\x01"] {
        let bytes = message(&[b"\x82\xa6status\0\xa6topics", header, &topic]);
        assert_eq!(DiscoveryResponse::from_bytes(&bytes).unwrap().topics, [info()]);
    }
}

#[test]
fn map_keys_can_come_in_any_order() {
    let inner = message(&[
        b"\x85\xabfingerprint\x07\xaepublisher_node\xa1n\xa4name\xa2/x",
        b"\xacmessage_type\xa1M\xa7address\xa8ipc:///x",
    ]);
    assert_eq!(TopicInfo::from_bytes(&inner), Ok(info()));
    assert_ne!(inner, info().to_bytes(), "encoding uses the canonical order");

    let request = message(&[b"\x82\xaatopic_name\xa2/x\xa7command\x03"]);
    assert_eq!(DiscoveryRequest::from_bytes(&request), Ok(DiscoveryRequest::lookup("/x")));

    let response = message(&[b"\x82\xa7message\xa4pong\xa6status\0"]);
    let expected = DiscoveryResponse::new(DiscoveryStatus::Ok, "pong");
    assert_eq!(DiscoveryResponse::from_bytes(&response), Ok(expected));
}

#[test]
fn the_last_of_duplicate_keys_counts() {
    let request =
        message(&[b"\x84\xa7command\x03\xaatopic_name\xa2/a\xa7command\x02\xaatopic_name\xa2/b"]);
    assert_eq!(DiscoveryRequest::from_bytes(&request), Ok(DiscoveryRequest::unregister("/b")));

    let response = message(&[b"\x83\xa6status\x03\xa7message\xa0\xa6status\x01"]);
    assert_eq!(
        DiscoveryResponse::from_bytes(&response).map(|response| response.status),
        Ok(DiscoveryStatus::NotFound)
    );

    let inner = message(&[
        b"\x86\xa4name\xa2/a\xa4name\xa2/x\xa7address\xa8ipc:///x",
        b"\xacmessage_type\xa1M\xabfingerprint\x07\xaepublisher_node\xa1n",
    ]);
    assert_eq!(TopicInfo::from_bytes(&inner), Ok(info()));

    // A nil after a value removes the value, as in the reference.
    let taken_back = message(&[b"\x83\xa7command\x03\xaatopic_name\xa2/a\xaatopic_name\xc0"]);
    assert_eq!(DiscoveryRequest::from_bytes(&taken_back).unwrap().topic_name, None);
}

#[test]
fn unknown_top_level_keys_are_skipped_with_any_value() {
    let values: [&[u8]; 20] = [
        b"\xc0",
        b"\xc2",
        b"\xe0",
        b"\xca\0\0\0\0",
        b"\xcb\0\0\0\0\0\0\0\0",
        b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa1a",
        b"\xc4\x01\xff",
        b"\x90",
        b"\x92\x01\x92\x02\x03",
        b"\x80",
        b"\x81\x01\x02",
        b"\x82\xc4\x01k\x01\x90\x80",
        b"\xd4\x05\0",
        b"\xd5\x05\0\0",
        b"\xd6\xff\0\0\0\0",
        b"\xd8\x050123456789abcdef",
        b"\xc7\0\x05",
        b"\xc8\0\x01\x05\0",
        b"\xc9\0\0\0\x01\x05\0",
    ];
    for value in values {
        let bytes = ping_with(value);
        assert_eq!(DiscoveryRequest::from_bytes(&bytes), Ok(DiscoveryRequest::ping()), "{value:?}");
        let bytes = message(&[b"\x82\xa6status\0\xa3zzz", value]);
        let expected = DiscoveryResponse::new(DiscoveryStatus::Ok, "");
        assert_eq!(DiscoveryResponse::from_bytes(&bytes), Ok(expected), "{value:?}");
    }
}

#[test]
fn absent_nil_and_empty_mean_the_same() {
    for value in [&b"\xc0"[..], b"\xc4\0", b"\xc5\0\0", b"\xc6\0\0\0\0"] {
        let request = DiscoveryRequest::from_bytes(&register_of(value)).unwrap();
        assert_eq!(request.topic_info, None);
    }
    for value in [&b"\xc0"[..], b"\x90"] {
        let bytes = message(&[b"\x82\xa6status\0\xa6topics", value]);
        assert_eq!(DiscoveryResponse::from_bytes(&bytes).unwrap().topics, []);
    }
    let bare = DiscoveryResponse::from_bytes(b"\x81\xa6status\0");
    assert_eq!(bare, Ok(DiscoveryResponse::new(DiscoveryStatus::Ok, "")));
}

#[test]
fn an_array_is_refused_as_a_map() {
    assert_eq!(*request_error(b"\x92\x05\xc0").kind(), wrong_type("a map", "an array"));
    let inner = message(&[&b"\x95"[..], &text("/x"), &text("ipc:///x"), b"\xa1M\x07\xa1n"]);
    let bytes = register_of(&message(&[&[0xc4, u8::try_from(inner.len()).unwrap()], &inner]));
    let error = request_error(&bytes);
    assert_eq!((error.field(), error.offset()), ("topic_info", 23));
    assert_eq!(*error.kind(), wrong_type("a map", "an array"));
    let error = DiscoveryResponse::from_bytes(b"\x92\0\xa0").unwrap_err();
    assert_eq!(*error.kind(), wrong_type("a map", "an array"));
}

#[test]
fn a_map_is_refused_as_an_array() {
    let error = DiscoveryResponse::from_bytes(b"\x82\xa6status\0\xa6topics\x80").unwrap_err();
    assert_eq!(error.to_string(), "topics at byte 16: expected an array, found a map");
}

#[test]
fn keys_must_be_text() {
    for (key, found) in
        [(&b"\x05"[..], "an integer"), (b"\xc4\x07command", "bytes"), (b"\xc0", "nil")]
    {
        let error = request_error(&message(&[b"\x81", key, b"\x05"]));
        assert_eq!(*error.kind(), wrong_type("text", found));
        assert_eq!((error.field(), error.offset()), ("(key)", 1));
        let error = TopicInfo::from_bytes(&message(&[b"\x81", key, b"\x05"])).unwrap_err();
        assert_eq!(*error.kind(), wrong_type("text", found));
        let error = DiscoveryResponse::from_bytes(&message(&[b"\x81", key, b"\0"])).unwrap_err();
        assert_eq!(*error.kind(), wrong_type("text", found));
    }
}

#[test]
fn text_and_arrays_of_integers_are_refused_as_bytes() {
    let inner = info().to_bytes();
    let as_text = message(&[&[0xd9, u8::try_from(inner.len()).unwrap()], &inner]);
    let as_array = message(&[&[0xdc, 0, u8::try_from(inner.len()).unwrap()], &inner]);
    // Serde would return invalid UTF-8 as bytes.
    let not_utf8 = b"\xa1\xff";
    // Maps and empty values of other types are refused too.
    for (value, found) in [
        (&as_text[..], "text"),
        (&as_array, "an array"),
        (not_utf8, "text"),
        (&inner, "a map"),
        (b"\xa0", "text"),
        (b"\x90", "an array"),
        (b"\xc2", "a boolean"),
        (b"\0", "an integer"),
    ] {
        let error = request_error(&register_of(value));
        assert_eq!((error.field(), error.offset()), ("topic_info", 21));
        assert_eq!(*error.kind(), wrong_type("bytes or nil", found));
    }
    let bytes = message(&[b"\x82\xa6status\0\xa6topics\x91", &as_text]);
    let error = DiscoveryResponse::from_bytes(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "topics[0] at byte 17: expected bytes, found text");
}

#[test]
fn bytes_are_refused_as_text() {
    let error = request_error(&lookup_of(b"\xc4\x02/x"));
    assert_eq!(error.to_string(), "topic_name at byte 21: expected text or nil, found bytes");
    let inner = b"\x81\xa7address\xc4\x01x";
    let error = TopicInfo::from_bytes(inner).unwrap_err();
    assert_eq!(error.to_string(), "address at byte 9: expected text, found bytes");
    let error = DiscoveryResponse::from_bytes(b"\x82\xa6status\0\xa7message\xc4\x01x").unwrap_err();
    assert_eq!(error.to_string(), "message at byte 17: expected text or nil, found bytes");
}

#[test]
fn only_integers_are_accepted_as_integers() {
    for (value, found) in [
        (&b"\xcb\x40\x14\0\0\0\0\0\0"[..], "a float"),
        (b"\xc3", "a boolean"),
        (b"\xa15", "text"),
        (b"\xc0", "nil"),
    ] {
        let error = request_error(&message(&[b"\x81\xa7command", value]));
        assert_eq!(*error.kind(), wrong_type("an integer", found));
        assert_eq!((error.field(), error.offset()), ("command", 9));
    }
}

#[test]
fn an_unknown_command_is_kept_as_its_number() {
    for (packed, number) in [
        (&b"\0"[..], 0),
        (b"\xff", -1),
        (b"\xd3\x80\0\0\0\0\0\0\0", i128::from(i64::MIN)),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", i128::from(u64::MAX)),
        // 256 + 5 must not be truncated to PING.
        (b"\xcd\x01\x05", 261),
    ] {
        let request =
            DiscoveryRequest::from_bytes(&message(&[b"\x81\xa7command", packed])).unwrap();
        assert_eq!(request.command, RequestedCommand::Unknown(number));
    }
    assert_eq!(DiscoveryRequest::ping().command, DiscoveryCommand::Ping.into());
}

#[test]
fn an_unknown_status_is_an_error() {
    for (packed, number) in [(&b"\x04"[..], 4), (b"\xff", -1), (b"\xcd\x01\0", 256)] {
        let error =
            DiscoveryResponse::from_bytes(&message(&[b"\x81\xa6status", packed])).unwrap_err();
        let expected = "a status from 0 to 3";
        assert_eq!(*error.kind(), DecodeErrorKind::OutOfRange { expected, found: number });
    }
}

#[test]
fn missing_required_keys_are_errors() {
    for (bytes, key) in [(&b"\x80"[..], "command"), (b"\x81\xaatopic_name\xc0", "command")] {
        assert_eq!(*request_error(bytes).kind(), DecodeErrorKind::MissingKey { key });
    }
    let error = DiscoveryResponse::from_bytes(b"\x80").unwrap_err();
    assert_eq!(*error.kind(), DecodeErrorKind::MissingKey { key: "status" });
    let packed = info().to_bytes();
    for key in ["name", "address", "message_type", "fingerprint", "publisher_node"] {
        // A changed first letter makes the key unknown.
        let at = packed.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
        let mut renamed = packed.clone();
        renamed[at] = b'X';
        let error = TopicInfo::from_bytes(&renamed).unwrap_err();
        let unknown = format!("X{}", &key[1..]);
        assert_eq!(*error.kind(), DecodeErrorKind::UnknownKey { key: unknown });
    }
    let error = TopicInfo::from_bytes(b"\x81\xa4name\xa2/x").unwrap_err();
    assert_eq!(*error.kind(), DecodeErrorKind::MissingKey { key: "address" });
}

#[test]
fn asks_for_ext_works_on_unreadable_requests() {
    for (bytes, asks) in [
        (&b"\x81\xa7command\x05"[..], false),
        (b"\x82\xa7command\x05\xa3ext\x80", true),
        (b"\x82\xa3ext\x05\xa7command\x05", true),
        (b"\x82\xa7command\xa1x\xa3ext\x80", true),
        (b"\x82\xa7command\xc0\xa3ext\x80", true),
        (b"\x81\xa7command\x40", true),
        (b"\x81\xa7command\x5f", true),
        (b"\x81\xa7command\x60", false),
        (b"\x82\xaatopic_info\x81\xa3ext\x80\xa7command\x01", false),
        (b"\x82\xc1", false),
        (b"", false),
        (b"\x93\xa3ext\x01\x02", false),
    ] {
        assert_eq!(DiscoveryRequest::asks_for_ext(bytes), asks, "{bytes:?}");
    }
}

#[test]
fn a_long_unknown_key_is_shortened_in_the_error() {
    let key = "k".repeat(200);
    let error = TopicInfo::from_bytes(&message(&[b"\x81", &text(&key), b"\xc0"])).unwrap_err();
    assert_eq!(*error.kind(), DecodeErrorKind::UnknownKey { key: "k".repeat(64) });
}

#[test]
fn topic_names_are_checked_only_in_topic_infos() {
    for length in [0, 1025] {
        let name = "n".repeat(length);
        let mut header = vec![0xda];
        header.extend(u16::try_from(length).unwrap().to_be_bytes());
        let packed = message(&[&header, name.as_bytes()]);
        let request = DiscoveryRequest::from_bytes(&lookup_of(&packed)).unwrap();
        assert_eq!(request.topic_name.as_deref(), Some(name.as_str()));
        let error = TopicInfo::from_bytes(&message(&[b"\x81\xa4name", &packed])).unwrap_err();
        assert_eq!(*error.kind(), TopicName::new(name).unwrap_err().into());
        assert_eq!((error.field(), error.offset()), ("name", 6));
    }
}

#[test]
fn fingerprints_are_unsigned_with_64_bits() {
    let error = TopicInfo::from_bytes(b"\x81\xabfingerprint\xff").unwrap_err();
    assert_eq!(
        error.to_string(),
        "fingerprint at byte 13: expected an unsigned integer of 64 bits, found -1"
    );
}

#[test]
fn every_truncated_message_is_refused() {
    let request = DiscoveryRequest::register(info()).to_bytes();
    for end in 0..request.len() {
        let error = request_error(&request[..end]);
        assert!(matches!(error.kind(), DecodeErrorKind::Truncated { .. }), "{end}: {error}");
    }
    let response = DiscoveryResponse {
        topics: vec![info(), info()],
        topic_info: Some(info()),
        ..DiscoveryResponse::new(DiscoveryStatus::Ok, "text")
    }
    .to_bytes();
    for end in 0..response.len() {
        let error = DiscoveryResponse::from_bytes(&response[..end]).unwrap_err();
        assert!(matches!(error.kind(), DecodeErrorKind::Truncated { .. }), "{end}: {error}");
    }
}

#[test]
fn trailing_bytes_are_refused_in_messages_and_topic_infos() {
    let mut request = DiscoveryRequest::ping().to_bytes();
    let length = request.len();
    request.extend([0xc0, 0xc0]);
    let error = request_error(&request);
    assert_eq!(error.offset(), length);
    assert_eq!(*error.kind(), DecodeErrorKind::TrailingBytes { count: 2 });

    let mut inner = info().to_bytes();
    inner.push(0);
    assert_eq!(
        *TopicInfo::from_bytes(&inner).unwrap_err().kind(),
        DecodeErrorKind::TrailingBytes { count: 1 }
    );
    let bytes = register_of(&message(&[&[0xc4, u8::try_from(inner.len()).unwrap()], &inner]));
    let error = request_error(&bytes);
    assert_eq!((error.field(), error.offset()), ("topic_info", bytes.len() - 1));

    let mut response = DiscoveryResponse::new(DiscoveryStatus::Ok, "").to_bytes();
    response.push(0xc0);
    let error = DiscoveryResponse::from_bytes(&response).unwrap_err();
    assert_eq!(*error.kind(), DecodeErrorKind::TrailingBytes { count: 1 });
}

#[test]
fn invalid_utf8_is_refused_everywhere() {
    let bad = b"\xa3a\xff\xfe";
    for bytes in [
        lookup_of(bad),
        ping_with(bad),
        ping_with(&message(&[b"\x91", bad])),
        message(&[b"\x82\xa7command\x05", bad, b"\xc0"]),
    ] {
        let error = request_error(&bytes);
        assert_eq!(*error.kind(), DecodeErrorKind::InvalidUtf8);
        assert_eq!(bytes[error.offset()], 0xff, "the error points at the first wrong byte");
    }
}

#[test]
fn the_reserved_marker_is_refused() {
    let error = request_error(&ping_with(b"\xc1"));
    assert_eq!((error.field(), error.offset()), ("zzz", 14));
    assert_eq!(*error.kind(), DecodeErrorKind::ReservedMarker);
}

#[test]
fn claimed_lengths_are_checked_against_the_remaining_bytes() {
    let claims: [&[u8]; 9] = [
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xdc\xff\xff",
        b"\xde\xff\xff",
        b"\xda\xff\xff",
        b"\x91\xdd\xff\xff\xff\xff",
    ];
    for claim in claims {
        let error = request_error(&ping_with(claim));
        assert!(matches!(error.kind(), DecodeErrorKind::Truncated { .. }), "{claim:?}: {error}");
        assert!(request_error(claim).offset() <= claim.len());
    }
    for bytes in [
        &b"\xdf\xff\xff\xff\xff\xa7command\x05"[..],
        b"\x82\xa7command\x01\xaatopic_info\xc6\xff\xff\xff\xff\x85",
    ] {
        assert!(matches!(request_error(bytes).kind(), DecodeErrorKind::Truncated { .. }));
    }
    let topics = b"\x82\xa6status\0\xa6topics\xdd\xff\xff\xff\xff";
    let error = DiscoveryResponse::from_bytes(topics).unwrap_err();
    assert!(matches!(error.kind(), DecodeErrorKind::Truncated { .. }));
}

#[test]
fn nesting_is_limited_as_in_the_reference_and_uses_no_stack() {
    let nested = |levels: usize| ping_with(&[vec![0x91; levels], vec![0xc0]].concat());
    // The message's own map is the first of the 1,024 levels.
    assert!(DiscoveryRequest::from_bytes(&nested(1023)).is_ok());
    let error = request_error(&nested(1024));
    assert_eq!(*error.kind(), DecodeErrorKind::TooDeep { limit: 1024 });
    assert_eq!(error.field(), "zzz");

    let small_stack = std::thread::Builder::new().stack_size(64 * 1024);
    let deep = small_stack.spawn(move || request_error(&nested(1_000_000)).kind().clone()).unwrap();
    assert_eq!(deep.join().unwrap(), DecodeErrorKind::TooDeep { limit: 1024 });
}

#[test]
fn errors_in_a_watch_name_the_field() {
    for (bytes, expected) in [
        (
            &b"\x82\xa7command\x41\xa3ext\x81\xa5since\x81\xa5epoch\x01"[..],
            "ext.since at byte 21: `revision` is missing",
        ),
        (
            b"\x82\xa7command\x41\xa3ext\x81\xa5since\x81\xa8revision\x01",
            "ext.since at byte 21: `epoch` is missing",
        ),
        (
            b"\x82\xa7command\x41\xa3ext\x81\xa5since\x01",
            "ext.since at byte 21: expected a map, found an integer",
        ),
        (
            b"\x82\xa7command\x41\xa3ext\x81\xa7wait_ms\xa11",
            "ext.wait_ms at byte 23: expected an unsigned integer or nil, found text",
        ),
    ] {
        assert_eq!(DiscoveryRequest::from_bytes(bytes).unwrap_err().to_string(), expected);
    }
    let event = b"\x82\xa6status\0\xa3ext\x81\xa6events\x91\x81\xa4kind\xa7updated";
    let error = DiscoveryResponse::from_bytes(event).unwrap_err();
    assert_eq!(error.to_string(), "ext.events[0] at byte 22: `revision` is missing");
    // Absent and nil are the same.
    let nil = b"\x82\xa7command\x41\xa3ext\x82\xa5since\xc0\xa6filter\xc0";
    assert_eq!(
        DiscoveryRequest::from_bytes(nil).unwrap(),
        DiscoveryRequest::watch(cortex_proto::RequestExt::default())
    );
}

#[test]
fn the_keys_of_cancel_have_their_types() {
    let ext = |key_and_value: &[u8]| {
        let bytes = message(&[b"\x82\xa6status\0\xa3ext\x81", key_and_value]);
        DiscoveryResponse::from_bytes(&bytes).map(|response| response.ext.unwrap())
    };
    assert_eq!(ext(b"\xa6cancel\xc3").unwrap().cancel, Some(true));
    assert_eq!(ext(b"\xa6cancel\xc0").unwrap().cancel, None);
    let cancelled = ext(b"\xa9cancelled\xcd\x01\x00").unwrap();
    assert_eq!((cancelled.cancelled, cancelled.counts.len()), (Some(256), 0));
    assert_eq!(ext(b"\xa9cancelled\xc0").unwrap().cancelled, None);
    for (wrong, message) in [
        (
            &b"\xa6cancel\x01"[..],
            "ext.cancel at byte 21: expected a boolean or nil, found an integer",
        ),
        (
            b"\xa9cancelled\xff",
            "ext.cancelled at byte 24: expected an unsigned integer of 64 bits, found -1",
        ),
    ] {
        assert_eq!(ext(wrong).unwrap_err().to_string(), message);
    }
}

#[test]
fn unknown_extension_keys_are_skipped_unless_they_are_counts() {
    let bytes = b"\x82\xa6status\0\xa3ext\x84\xa1a\x05\xa1b\xa1x\xa1c\xff\xa1d\x81\xa1e\x05";
    let ext = DiscoveryResponse::from_bytes(bytes).unwrap().ext.unwrap();
    assert_eq!(ext.counts, [("a".to_owned(), 5)].into());
}
