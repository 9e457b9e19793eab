//! The watches, blocking and asynchronous. The driver sends the requests; the thread of the user
//! decodes the replies, since a snapshot may be large.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_core::Stream;

use crate::driver::{Handle, Settings};
use crate::error::{ConnectError, Error, Result};
use crate::protocol::reply::{RawReply, Reply};
use crate::protocol::watch::{WatchEvent, WatchState, parse_filter};
use crate::protocol::{Action, Outcome};
use crate::state_cell::StateCell;

/// A watch, as its user and the driver share it.
pub(crate) type SharedWatch = StateCell<WatchShare>;

#[derive(Debug)]
pub(crate) struct WatchShare {
    state: WatchState,
    turn: Turn,
    error: Option<Error>,
    trouble: Option<Error>,
    /// The driver has ended.
    is_closed: bool,
}

/// Which side goes on with the watch.
#[derive(Debug)]
enum Turn {
    /// The driver sends the next request.
    Driver,
    /// The user takes this reply. Until then the driver sends nothing, so a slow user costs no
    /// memory.
    User(RawReply),
    /// The user decodes a reply.
    Decoding,
}

/// What the user takes from a watch.
enum Taken {
    Event(Result<WatchEvent>),
    /// A reply to decode.
    Reply(RawReply),
}

impl WatchShare {
    fn take(&mut self) -> Option<Taken> {
        if let Some(event) = self.state.take_event() {
            return Some(Taken::Event(Ok(event)));
        }
        if let Some(error) = self.error.take() {
            return Some(Taken::Event(Err(error)));
        }
        match mem::replace(&mut self.turn, Turn::Decoding) {
            Turn::User(raw) => Some(Taken::Reply(raw)),
            turn @ (Turn::Driver | Turn::Decoding) => {
                self.turn = turn;
                self.is_closed.then_some(Taken::Event(Err(Error::Closed)))
            }
        }
    }

    /// The user has decoded a reply.
    fn decoded(&mut self, reply: Result<Reply>, raw: &RawReply) {
        let understood = match reply {
            Ok(reply) => self.state.answered(reply, raw.sent_at, raw.received_at),
            Err(error) => {
                self.state.unreadable(raw.received_at);
                Err(error)
            }
        };
        self.error = understood.err().or(self.error.take());
        self.turn = Turn::Driver;
    }

    fn outcome(
        &mut self,
        outcome: Outcome,
        settings: &Settings,
        cause: Option<&ConnectError>,
        now: Instant,
    ) {
        let address = settings.address.as_str().to_owned();
        match outcome {
            Outcome::Reply(raw) => {
                self.trouble = None;
                self.turn = Turn::User(raw);
            }
            Outcome::Lost => {
                self.trouble = Some(Error::Disconnected { address });
                self.state.lost();
            }
            Outcome::NoAnswer { .. } => {
                let waited = settings.policy.timeout;
                let attempts = u32::from(!waited.is_zero());
                let cause = cause.cloned();
                self.trouble = Some(Error::NoAnswer { address, waited, attempts, cause });
                self.state.failed(now);
            }
            Outcome::Failed(error) => {
                self.error = Some(error);
                self.state.failed(now);
            }
        }
    }
}

/// The driver's end of a watch. Dropping it closes the watch.
#[derive(Debug)]
pub(crate) struct WatchOperation(Arc<SharedWatch>);

impl WatchOperation {
    pub(crate) fn new(watch: Arc<SharedWatch>) -> Self {
        Self(watch)
    }

    pub(crate) fn next_action(&self, now: Instant) -> Action {
        self.0.with(|share| match share.turn {
            Turn::Driver => share.state.next_action(now),
            Turn::User(_) | Turn::Decoding => Action::Wait(None),
        })
    }

    pub(crate) fn outcome(
        &self,
        outcome: Outcome,
        settings: &Settings,
        cause: Option<&ConnectError>,
        now: Instant,
    ) {
        self.0.change(|share| share.outcome(outcome, settings, cause, now));
    }

    /// The connection was lost, and the driver sends the request again.
    pub(crate) fn disconnected(&self, settings: &Settings) {
        let address = settings.address.as_str().to_owned();
        self.0.change(|share| share.trouble = Some(Error::Disconnected { address }));
    }
}

impl Drop for WatchOperation {
    fn drop(&mut self) {
        self.0.change(|share| share.is_closed = true);
    }
}

/// The user's end, which both kinds of watch share.
struct WatchHandle {
    shared: Arc<SharedWatch>,
    id: u64,
    handle: Handle,
    /// The watch has reported its end.
    is_over: bool,
}

impl WatchHandle {
    fn start(handle: Handle, filter: Option<&str>) -> Result<Self> {
        let filter = parse_filter(filter)?;
        if handle.is_forked() {
            return Err(Error::Forked);
        }
        let Settings { poll_interval, policy, .. } = handle.settings();
        let state = WatchState::new(filter, *poll_interval, policy.timeout);
        let shared = Arc::new(SharedWatch::new(WatchShare {
            state,
            turn: Turn::Driver,
            error: None,
            trouble: None,
            is_closed: false,
        }));
        let id = handle.watch(Arc::clone(&shared));
        Ok(Self { shared, id, handle, is_over: false })
    }

    /// Waits for the next event or error, until this time; `None` is for ever.
    fn wait(&mut self, until: Option<Instant>) -> Result<Option<WatchEvent>> {
        self.handle.check_may_wait().inspect_err(|_| self.is_over = true)?;
        loop {
            match self.shared.wait(until, WatchShare::take) {
                None => return Ok(None),
                Some(Taken::Event(event)) => return self.note(event).map(Some),
                Some(Taken::Reply(raw)) => self.decode(&raw),
            }
        }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<WatchEvent>> {
        if self.handle.is_forked() {
            return Poll::Ready(self.note(Err(Error::Forked)));
        }
        loop {
            match ready!(self.shared.poll(cx, WatchShare::take)) {
                Taken::Event(event) => return Poll::Ready(self.note(event)),
                Taken::Reply(raw) => self.decode(&raw),
            }
        }
    }

    fn decode(&self, raw: &RawReply) {
        let reply = Reply::read(raw);
        self.shared.with(|share| share.decoded(reply, raw));
        self.handle.continue_watch(self.id);
    }

    fn note(&mut self, event: Result<WatchEvent>) -> Result<WatchEvent> {
        self.is_over = matches!(event, Err(Error::Closed | Error::Forked));
        event
    }

    fn trouble(&self) -> Option<Error> {
        if self.handle.is_forked() {
            Some(Error::Forked)
        } else {
            self.shared.with(|share| share.trouble.clone())
        }
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.handle.cancel(self.id);
    }
}

/// The events of the watched topics, made by
/// [`DiscoveryClient::watch`](crate::DiscoveryClient::watch).
///
/// As an iterator it blocks until the next event, and ends only when the client is closed. While the
/// daemon is unreachable it waits too, and [`trouble`](Self::trouble) gives the reason. You can
/// continue after an error: the watch recovers by itself, and gives about one error per second at
/// most until then.
///
/// It keeps the client's connection. When you drop it, the daemon forgets it at once.
pub struct Watch(WatchHandle);

impl Watch {
    pub(crate) fn start(handle: Handle, filter: Option<&str>) -> Result<Self> {
        WatchHandle::start(handle, filter).map(Self)
    }

    /// Waits for the next event, at most `timeout`; `None` when the time is over. With a timeout of
    /// zero it gives an event that has already arrived.
    ///
    /// # Errors
    /// Errors other than an unreachable daemon: [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`]; and [`Error::Closed`], [`Error::Forked`], [`Error::OnClientThread`],
    /// with which the watch ends.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<WatchEvent>> {
        // A timeout too long for an `Instant` is endless.
        self.0.wait(Instant::now().checked_add(timeout))
    }

    /// Why the daemon is unreachable; `None` after an answer.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.0.trouble()
    }
}

impl Iterator for Watch {
    type Item = Result<WatchEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_over { None } else { self.0.wait(None).transpose() }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("trouble", &self.trouble()).finish_non_exhaustive()
    }
}

/// The events of the watched topics, made by
/// [`AsyncDiscoveryClient::watch`](crate::AsyncDiscoveryClient::watch), on any executor.
///
/// It is also a [`Stream`] of events, which ends only when the client is closed. While the daemon is
/// unreachable it waits, and [`trouble`](Self::trouble) gives the reason. You can continue after an
/// error, as with [`Watch`]. When you drop it, the daemon forgets it at once.
pub struct AsyncWatch(WatchHandle);

impl AsyncWatch {
    pub(crate) fn start(handle: Handle, filter: Option<&str>) -> Result<Self> {
        WatchHandle::start(handle, filter).map(Self)
    }

    /// Waits for the next event. Dropping the future loses no event.
    ///
    /// # Errors
    /// Those of [`Watch::next_within`].
    pub fn next_event(&mut self) -> impl Future<Output = Result<WatchEvent>> + Send {
        poll_fn(|cx| self.0.poll(cx))
    }

    /// Why the daemon is unreachable; `None` after an answer.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.0.trouble()
    }
}

impl Stream for AsyncWatch {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.0.is_over { Poll::Ready(None) } else { self.0.poll(cx).map(Some) }
    }
}

impl fmt::Debug for AsyncWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWatch").field("trouble", &self.trouble()).finish_non_exhaustive()
    }
}
