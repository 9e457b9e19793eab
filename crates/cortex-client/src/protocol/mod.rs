//! The pure part of the client: what to send, when, and what the answers mean. It knows no clock and
//! no socket.

pub(crate) mod advertise;
pub(crate) mod backoff;
pub(crate) mod reply;
pub(crate) mod retry;
pub(crate) mod wait;
pub(crate) mod watch;
