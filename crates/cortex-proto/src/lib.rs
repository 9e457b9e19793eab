//! The wire format of the Cortex discovery protocol.
//!
//! Nodes talk to the discovery daemon over ZeroMQ: one request, one reply, each a single message
//! part whose body is one MessagePack map. This crate holds those messages as Rust types
//! ([`DiscoveryRequest`], [`DiscoveryResponse`], [`TopicInfo`]) and turns them into bytes and
//! back. It opens no socket, reads no clock and touches no file: bring your own transport.
//!
//! Encoding is canonical: shortest MessagePack forms, the reference's key order, so the bytes are
//! the ones that the Python reference sends. Decoding is liberal where MessagePack is (any width
//! of an integer or a length, keys in any order, unknown top-level keys, a key twice) and strict
//! where a mistake would hide (trailing bytes, truncated input, invalid UTF-8, another type than
//! the protocol's). A [`DecodeError`] tells the field, the byte and what was wrong. Lengths that
//! the input merely claims are never allocated, and nesting costs no stack.
//!
//! The format itself is described in `docs/PROTOCOL.md` of the project.
//!
//! # Example
//!
//! ```
//! use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, TopicInfo, TopicName};
//!
//! // What goes out: hand these bytes to a ZeroMQ REQ socket.
//! let request = DiscoveryRequest::lookup("/camera/image");
//! assert_eq!(request.to_bytes()[..9], *b"\x82\xa7command");
//!
//! // What comes back.
//! let reply = DiscoveryResponse {
//!     topic_info: Some(TopicInfo {
//!         name: TopicName::new("/camera/image")?,
//!         address: "ipc:///tmp/cortex/topics/camera.sock".into(),
//!         message_type: "ImageMessage".into(),
//!         fingerprint: 0x1234_5678_9abc_def0,
//!         publisher_node: "camera_node".into(),
//!     }),
//!     ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
//! }
//! .to_bytes();
//! let response = DiscoveryResponse::from_bytes(&reply)?;
//! assert_eq!(response.topic_info.map(|info| info.fingerprint), Some(0x1234_5678_9abc_def0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod encode;
mod error;
mod event;
mod ext;
mod reader;
mod request;
mod response;
mod status;
mod topic_filter;
mod topic_info;
mod topic_name;
mod wire_enums;

pub use command::{DiscoveryCommand, RequestedCommand};
pub use error::{DecodeError, DecodeErrorKind};
pub use event::{EncodedEvent, EncodedWatchExt, EventExt};
pub use ext::{EXTENSION_LEVEL, EntryExt, MAX_WAIT_MS, RequestExt, ResponseExt, Session, Since};
pub use request::DiscoveryRequest;
pub use response::{DiscoveryResponse, EncodedResponse};
pub use status::DiscoveryStatus;
pub use topic_filter::{TopicFilter, TopicFilterError};
pub use topic_info::TopicInfo;
pub use topic_name::{TopicName, TopicNameError};
pub use wire_enums::{EndpointState, EventKind, Hold, RemovalReason};

/// Where the daemon listens and clients look when nothing else is said.
pub const DEFAULT_DISCOVERY_ADDRESS: &str = "ipc:///tmp/cortex/discovery.sock";
