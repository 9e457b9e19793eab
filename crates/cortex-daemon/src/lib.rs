//! The Cortex discovery daemon: nodes register their topics here, and find each other.
//!
//! [`DiscoveryDaemon`] serves the discovery protocol at ipc and tcp addresses. Underneath:
//!
//! | module | what | knows |
//! |---|---|---|
//! | [`registry`] | which topics there are, and what each request does | no clock, no socket, no file |
//! | [`zmtp`] | the transport: bytes in, requests out, replies in, bytes out | no clock, no socket, no file |
//! | `edge` | sockets, files, descriptors, signals, the clock | all of that |
//!
//! The binary `cortex-discovery` is this library with a command line. Signals are the binary's:
//! a program that embeds the daemon ends it with a [`StopHandle`].

mod audit_log;
mod config;
mod daemon;
mod deferred_queue;
#[expect(clippy::disallowed_methods, reason = "the edge is where clocks and files are")]
mod edge;
mod error;
mod event_loop;
pub mod peer;
mod persistence;
pub mod registry;
mod shared_body;
mod startup;
pub mod zmtp;

pub use config::{Config, State};
pub use cortex_proto::{AddressError, ListenAddress, ListenTarget};
pub use daemon::DiscoveryDaemon;
pub use edge::descriptors::raise_descriptor_limit;
pub use edge::listener::ListenError;
pub use edge::probe::serve_probe_helper;
pub use edge::signals::stop_on_signals;
pub use edge::socket_file::SocketFileError;
pub use edge::state_file::StoreError;
pub use edge::state_path::default_path as default_state_path;
pub use edge::stop::StopHandle;
pub use error::{BindError, RunError};
pub use startup::StateError;
