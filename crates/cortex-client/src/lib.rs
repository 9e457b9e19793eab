//! A client of the Cortex discovery daemon, over ZeroMQ.
//!
//! A [`DiscoveryClient`] sends the daemon one request at a time: it registers topics, looks them
//! up, lists them and waits for them. A [`Watch`] reports each change as it happens. Every call
//! ends within a known time and says what happened: "no such topic", "registered by another node"
//! and "no daemon answered" are different [`Error`]s, never `false` or an empty list.
//!
//! A call without an answer leaves nothing behind: the next call starts on a new connection and
//! can never receive the earlier call's late reply.
//!
//! This crate does not carry messages between publishers and subscribers. It only finds their
//! endpoints. The messages to the daemon are those of [`cortex_proto`].
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use cortex_client::{DiscoveryClient, Error, TopicInfo, TopicName};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = DiscoveryClient::builder().timeout(Duration::from_secs(1)).retries(2).build()?;
//!
//! client.register_topic(&TopicInfo {
//!     name: TopicName::new("/camera/image")?,
//!     address: "ipc:///tmp/cortex/topics/camera.sock".into(),
//!     message_type: "ImageMessage".into(),
//!     fingerprint: 0x1234_5678_9abc_def0,
//!     publisher_node: "camera_node".into(),
//! })?;
//!
//! match client.lookup_topic("/lidar/points") {
//!     Ok(info) => println!("connect to {}", info.address),
//!     Err(Error::NoSuchTopic { topic }) => println!("{topic} has no publisher yet"),
//!     Err(error) => return Err(error.into()),
//! }
//!
//! let camera = client.wait_for_topic("/camera/image", Duration::from_secs(10))?;
//! println!("{} sends {}", camera.publisher_node, camera.message_type);
//! # Ok(())
//! # }
//! ```
//!
//! A watch follows the topics, also across restarts of the daemon:
//!
//! ```no_run
#![doc = include_str!("../examples/watch.rs")]
//! ```
//!
//! A publisher advertises its topic. While the [`Advertisement`] lives, the client registers the
//! topic again whenever the daemon has lost it:
//!
//! ```no_run
#![doc = include_str!("../examples/advertise.rs")]
//! ```
//!
//! # Building
//!
//! The zmq crate builds libzmq from its sources, so you need a C++ compiler. When you use this
//! crate outside its workspace, copy the `CXXFLAGS` from the workspace's `.cargo/config.toml`.
//! Without them libzmq may misalign its queues and does not use eventfd, and a forked child that
//! drops a client can abort its parent.
//!
//! # Features
//!
//! - `tokio` (off by default): `AsyncDiscoveryClient` has the same calls as futures. Any number of
//!   calls can share its connection at the same time.

mod advertise;
mod blocking;
mod builder;
mod connection;
mod context;
mod error;
mod info;
#[cfg(feature = "tokio")]
mod nonblocking;
mod protocol;

pub use advertise::{Advertisement, Notice};
pub use blocking::{DiscoveryClient, Watch};
pub use builder::{DEFAULT_POLL_INTERVAL, DEFAULT_TIMEOUT, DiscoveryClientBuilder};
pub use cortex_proto::{
    Address, AddressError, ConnectTarget, DEFAULT_DISCOVERY_ADDRESS, EndpointState, EntryExt,
    EventKind, Hold, RemovalReason, TopicFilter, TopicFilterError, TopicInfo, TopicName,
};
pub use error::{Error, Result, UnreadableReply};
pub use info::{DaemonInfo, TopicDescription};
#[cfg(feature = "tokio")]
pub use nonblocking::{AsyncDiscoveryClient, AsyncWatch};
pub use protocol::wait::DEFAULT_WAIT_TIMEOUT;
pub use protocol::watch::{Change, WatchEvent};
