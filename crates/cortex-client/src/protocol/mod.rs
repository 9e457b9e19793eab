//! The pure part of the client: what to send, when, and what the answers mean. It knows no clock and
//! no socket.
//!
//! A machine says with an [`Action`] what it wants next, and gets an [`Outcome`] for each request.
//! The [`driver`](crate::driver) carries out the actions. Spurious polls change nothing.

pub(crate) mod advertise;
pub(crate) mod backoff;
pub(crate) mod list_poll;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod retry;
pub(crate) mod wait;
pub(crate) mod watch;

use std::time::Instant;

use self::reply::RawReply;
use self::request::Query;
use crate::error::Error;

/// What a machine wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this request and report its outcome.
    Send(Query),
    /// Report the outcome of a LIST that is sent from now on, at `due` at the latest. Poll the
    /// machine again at `until`, even without an outcome.
    List { due: Instant, until: Option<Instant> },
    /// Poll the machine again at this time; with `None` only after an event.
    Wait(Option<Instant>),
    /// The machine is done.
    Finish,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The daemon's reply.
    Reply(RawReply),
    /// The connection was lost while the daemon had the request, and the request may not be sent
    /// again.
    Lost,
    /// No answer came in time. `was_lost`: the connection was lost meanwhile.
    NoAnswer { was_lost: bool },
    /// The client could not send the request.
    Failed(Error),
}
