//! The transport: ZMTP 3.1 as a server speaks it to REQ and DEALER peers, without any I/O.
//!
//! [`Engine`] takes the bytes that a peer sent, however they were cut, and gives requests; it
//! takes replies and gives the bytes to send. It opens no socket and knows no clock, so it runs
//! in property tests and under a fuzzer. Facts about ZMTP are from its specification
//! (ZeroMQ RFC 37) and from what libzmq does.

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
