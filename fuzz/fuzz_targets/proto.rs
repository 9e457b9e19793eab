//! Any bytes decode to a message or an error. A decoded message encodes to bytes that decode to the
//! same message.

#![no_main]

use cortex_proto::{DiscoveryRequest, DiscoveryResponse, TopicInfo};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match DiscoveryRequest::from_bytes(bytes) {
        Ok(request) => assert_eq!(DiscoveryRequest::from_bytes(&request.to_bytes()), Ok(request)),
        Err(error) => assert!(error.offset() <= bytes.len(), "{error}"),
    }
    match DiscoveryResponse::from_bytes(bytes) {
        Ok(reply) => assert_eq!(DiscoveryResponse::from_bytes(&reply.to_bytes()), Ok(reply)),
        Err(error) => assert!(error.offset() <= bytes.len(), "{error}"),
    }
    match TopicInfo::from_bytes(bytes) {
        Ok(info) => assert_eq!(TopicInfo::from_bytes(&info.to_bytes()), Ok(info)),
        Err(error) => assert!(error.offset() <= bytes.len(), "{error}"),
    }
});
