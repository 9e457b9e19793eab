//! All input and output: sockets, files, processes, signals, the clock.

pub(crate) mod clock;
mod connection;
pub(crate) mod connections;
pub(crate) mod credentials;
mod decode;
pub(crate) mod descriptors;
mod files;
mod fnv;
pub(crate) mod handover;
pub(crate) mod listener;
pub(crate) mod log_limit;
pub(crate) mod probe;
pub(crate) mod processes;
pub(crate) mod random;
mod served;
pub(crate) mod signals;
mod socket;
pub(crate) mod socket_file;
pub(crate) mod state_file;
pub(crate) mod state_path;
pub(crate) mod stop;
pub(crate) mod store;
mod stream;
mod tokens;
mod users;
