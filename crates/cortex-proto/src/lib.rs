//! The wire format of the Cortex discovery protocol.
//!
//! Nodes talk to the discovery daemon over ZeroMQ. Each request gets one reply; both are one message
//! part whose body is one MessagePack map. This crate defines these messages as Rust types
//! ([`DiscoveryRequest`], [`DiscoveryResponse`], [`TopicInfo`]), encodes them to bytes and decodes
//! them. It opens no socket, reads no clock and touches no file: the caller brings the transport.
//!
//! Encoding is canonical: MessagePack's shortest forms, and keys in the reference's order. So the
//! bytes equal those of the Python reference.
//!
//! Decoding accepts what MessagePack leaves open: any width of an integer or a length, keys in any
//! order, duplicate keys, unknown top-level keys. It refuses trailing bytes, truncated input, invalid
//! UTF-8 and values of a wrong type. A [`DecodeError`] names the field, the offset and the problem.
//! Decoding allocates no memory for a length that the input only claims, and uses no stack for
//! nested values.
//!
//! An [`Address`] says where a client connects to a daemon, a [`ListenAddress`] where a daemon
//! listens.
//!
//! `docs/PROTOCOL.md` of the project describes the format.
//!
//! # Example
//!
//! ```
//! use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, TopicInfo, TopicName};
//!
//! // The request: send these bytes through a ZeroMQ REQ socket.
//! let request = DiscoveryRequest::lookup("/camera/image");
//! assert_eq!(request.to_bytes()[..9], *b"\x82\xa7command");
//!
//! // The reply.
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

mod address;
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

pub use address::{
    Address, AddressError, ConnectTarget, ListenAddress, ListenTarget, MAX_SOCKET_PATH,
};
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

/// The default address: the daemon listens there, and clients connect to it.
pub const DEFAULT_DISCOVERY_ADDRESS: &str = "ipc:///tmp/cortex/discovery.sock";
