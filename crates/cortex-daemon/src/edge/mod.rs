//! Everything impure, a file each: sockets, files, descriptors, signals, the clock.

pub(crate) mod clock;
pub(crate) mod connections;
mod credentials;
pub(crate) mod descriptors;
pub(crate) mod listener;
mod log_limit;
mod random;
pub(crate) mod signals;
pub(crate) mod socket_file;
pub(crate) mod stop;
mod stream;
