//! A client of the Cortex discovery daemon, over ZeroMQ.
//!
//! A [`DiscoveryClient`] registers topics, looks them up, lists them and waits for them. A [`Watch`]
//! reports each change as it happens. An [`AsyncDiscoveryClient`] has the same calls as futures, for
//! any executor. Every call
//! ends within a known time and says what happened: "no such topic", "registered by another node"
//! and "no daemon answered" are different [`Error`]s, never `false` or an empty list.
//!
//! A call without an answer leaves nothing behind: an unsent request is never sent, and a late reply
//! reaches no other call.
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
//! let client = DiscoveryClient::builder().timeout(Duration::from_secs(1)).retries(2).build()?;
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
//! Without them libzmq may misalign its queues, and a client needs a few more descriptors.

mod advertisement;
mod blocking;
mod builder;
mod calls;
mod driver;
mod error;
mod future;
mod info;
mod protocol;
mod state_cell;
mod watch_handle;

pub use advertisement::{Advertisement, Notice};
pub use blocking::DiscoveryClient;
pub use builder::{DEFAULT_POLL_INTERVAL, DEFAULT_TIMEOUT, DiscoveryClientBuilder};
pub use cortex_proto::{
    Address, AddressError, ConnectTarget, DEFAULT_DISCOVERY_ADDRESS, EndpointState, EntryExt,
    EventKind, Hold, RemovalReason, TopicFilter, TopicFilterError, TopicInfo, TopicName,
};
pub use error::{ConnectError, Error, Result, SocketError, UnreadableReply};
pub use future::AsyncDiscoveryClient;
pub use info::{DaemonInfo, TopicDescription};
pub use protocol::wait::DEFAULT_WAIT_TIMEOUT;
pub use protocol::watch::{Change, WatchEvent};
pub use watch_handle::{AsyncWatch, Watch};
