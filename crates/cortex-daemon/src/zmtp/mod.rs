//! The transport: the server side of ZMTP 3.1 for REQ and DEALER peers, without any I/O.
//!
//! An [`Engine`] turns the bytes that a peer has sent, in pieces of any size, into requests, and
//! replies into the bytes to send. It opens no socket and reads no clock, so it runs in property
//! tests and under a fuzzer. The facts about ZMTP come from its specification (ZeroMQ RFC 37) and
//! from libzmq's behaviour.

mod engine;
mod frame;
mod greeting;
mod limits;
mod output;
mod ready;
mod violation;

pub use engine::{Body, Engine, Envelope, Incoming, Request};
pub use limits::{MAX_BODY, MAX_COMMAND, MAX_ENVELOPE, MAX_REFUSED_BODY, MAX_UNSENT};
pub use output::Output;
pub use violation::Violation;
