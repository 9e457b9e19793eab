//! The blocking watch, which carries out the actions of a [`WatchState`] on a [`Connection`].

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::{Call, CallOutcome, Connection};
use crate::error::{Error, Result};
use crate::protocol::watch::{WatchAction, WatchEvent, WatchState};

/// The events of the watched topics, made by
/// [`DiscoveryClient::watch`](crate::DiscoveryClient::watch).
///
/// As an iterator it never ends, and blocks until the next event. While the daemon is unreachable
/// it waits too, and [`trouble`](Self::trouble) gives the reason. You can continue after an error:
/// the watch recovers by itself, and gives about one error per second at most until then.
///
/// It has its own connection. Dropping it closes the connection at once.
pub struct Watch {
    connection: Connection,
    state: WatchState,
    /// The query in progress, when the caller's time ended before the answer.
    call: Option<Call>,
    trouble: Option<Error>,
}

impl Watch {
    pub(crate) fn start(address: String, state: WatchState) -> Result<Self> {
        Ok(Self { connection: Connection::open(address)?, state, call: None, trouble: None })
    }

    /// Waits for the next event, at most `timeout`; `None` when the time is over. With a timeout of
    /// zero it gives an event that has already arrived.
    ///
    /// # Errors
    /// Errors other than an unreachable daemon: [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::InvalidAddress`], [`Error::Transport`].
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<WatchEvent>> {
        // A timeout too long for an `Instant` is endless.
        self.advance(Instant::now().checked_add(timeout))
    }

    /// Why the daemon is unreachable; `None` after an answer. It is current when
    /// [`next_within`](Self::next_within) or the iterator has returned.
    #[must_use]
    pub fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    fn advance(&mut self, until: Option<Instant>) -> Result<Option<WatchEvent>> {
        loop {
            if let Some(event) = self.state.take_event() {
                return Ok(Some(event));
            }
            let mut call = match self.call.take() {
                Some(call) => call,
                None => match self.state.next_action(Instant::now()) {
                    WatchAction::Send(query) => Call::of(query),
                    WatchAction::Pause(pause) => {
                        let left = until.map_or(Duration::MAX, |until| {
                            until.saturating_duration_since(Instant::now())
                        });
                        if left.is_zero() {
                            return Ok(None);
                        }
                        thread::sleep(pause.min(left));
                        continue;
                    }
                },
            };
            match self.connection.advance(&mut call, until) {
                Ok(CallOutcome::Answered(reply)) => {
                    self.trouble = None;
                    self.state.answered(reply, Instant::now())?;
                }
                Ok(CallOutcome::Lost) => {
                    self.trouble = Some(self.disconnected());
                    self.state.lost(Instant::now());
                }
                Ok(CallOutcome::Pending) => {
                    if call.was_lost() && self.trouble.is_none() {
                        self.trouble = Some(self.disconnected());
                    }
                    self.call = Some(call);
                    return Ok(None);
                }
                Err(error @ Error::NoAnswer { .. }) => {
                    self.trouble = Some(error);
                    self.state.unanswered();
                }
                Err(error) => {
                    self.state.failed(Instant::now());
                    return Err(error);
                }
            }
        }
    }

    fn disconnected(&self) -> Error {
        Error::Disconnected { address: self.connection.address().to_owned() }
    }
}

impl Iterator for Watch {
    type Item = Result<WatchEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Without a deadline it returns only with an event or an error.
            if let Some(item) = self.advance(None).transpose() {
                return Some(item);
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("connection", &self.connection)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}
