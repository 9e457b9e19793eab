//! A client of the Cortex discovery daemon, over ZeroMQ.
//!
//! A [`DiscoveryClient`] asks the daemon one thing at a time: it registers topics, finds them, lists
//! them and waits for them. A [`Watch`] tells what comes, changes and goes, as it happens. Every call
//! ends within a known time and says what happened: "no such topic", "registered by another node"
//! and "nobody answered" are different [`Error`]s, never `false` or an empty list.
//!
//! A call that got no answer leaves nothing behind: the next one starts on a fresh connection and
//! can never be given the earlier call's late reply.
//!
//! This crate does not carry messages between publishers and subscribers; it only tells where
//! they are. The messages to the daemon are those of [`cortex_proto`].
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
//!     Err(Error::NoSuchTopic { topic }) => println!("nobody publishes {topic} yet"),
//!     Err(error) => return Err(error.into()),
//! }
//!
//! let camera = client.wait_for_topic("/camera/image", Duration::from_secs(10))?;
//! println!("{} sends {}", camera.publisher_node, camera.message_type);
//! # Ok(())
//! # }
//! ```
//!
//! Who wants to know what comes and goes watches, also through restarts of the daemon:
//!
//! ```no_run
#![doc = include_str!("../examples/watch.rs")]
//! ```
//!
//! A publisher that is to be found, whatever becomes of the daemon, advertises its topic: it is
//! registered anew for as long as the [`Advertisement`] lives.
//!
//! ```no_run
#![doc = include_str!("../examples/advertise.rs")]
//! ```
//!
//! # Building
//!
//! The zmq crate builds libzmq from its sources, which takes a C++ compiler. Where this crate is used
//! outside its workspace, take over the `CXXFLAGS` of the workspace's `.cargo/config.toml`: without
//! them libzmq may misalign its queues, does without eventfd, and a forked child that drops a client
//! can abort its parent.
//!
//! # Features
//!
//! - `tokio`, off by default: `AsyncDiscoveryClient`, the same calls as futures, any number of them
//!   at once on one connection.

mod advertise;
mod advertisement_manager;
mod backoff;
mod blocking;
mod builder;
mod connection;
mod context;
mod error;
mod exchange;
mod info;
#[cfg(feature = "tokio")]
mod nonblocking;
mod reply;
mod wait;
mod watch;

pub use advertise::{Advertisement, Notice};
pub use blocking::{DiscoveryClient, Watch};
pub use builder::{DEFAULT_POLL_INTERVAL, DEFAULT_TIMEOUT, DiscoveryClientBuilder};
pub use cortex_proto::{
    DEFAULT_DISCOVERY_ADDRESS, EndpointState, EntryExt, EventKind, Hold, RemovalReason,
    TopicFilter, TopicFilterError, TopicInfo, TopicName,
};
pub use error::{Error, Result, UnreadableReply};
pub use info::{DaemonInfo, TopicDescription};
#[cfg(feature = "tokio")]
pub use nonblocking::{AsyncDiscoveryClient, AsyncWatch};
pub use wait::DEFAULT_WAIT_TIMEOUT;
pub use watch::{Change, WatchEvent};
