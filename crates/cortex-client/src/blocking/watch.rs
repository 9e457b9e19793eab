//! The blocking watch: carries out on a [`Connection`] what a [`WatchState`] asks for.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::{Call, CallOutcome, Connection};
use crate::error::{Error, Result};
use crate::watch::{WatchAction, WatchEvent, WatchState};

/// The topics as they come, change and go, told as it happens: made by
/// [`DiscoveryClient::watch`](crate::DiscoveryClient::watch).
///
/// As an iterator it never ends, and waits for as long as nothing happens. A daemon that cannot be
/// reached is waited for, too: [`trouble`](Self::trouble) tells. After an error it may be asked for
/// more: it goes on by itself when the reason passes, and tells no more than one error a second or
/// so when it does not.
///
/// It has a connection of its own, which is closed at once when it is dropped.
pub struct Watch {
    connection: Connection,
    state: WatchState,
    /// The question under way, when the time was over before there was an answer.
    call: Option<Call>,
    trouble: Option<Error>,
}

impl Watch {
    pub(crate) fn start(address: String, state: WatchState) -> Result<Self> {
        Ok(Self { connection: Connection::open(address)?, state, call: None, trouble: None })
    }

    /// Waits for the next event, at most `timeout`; `None` when the time is over. With a timeout of
    /// zero it tells what is there already.
    ///
    /// # Errors
    /// What will not pass by itself: [`Error::Refused`], [`Error::Unreadable`], [`Error::InvalidAddress`],
    /// [`Error::Transport`].
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<WatchEvent>> {
        // A time that cannot be told is endless.
        self.advance(Instant::now().checked_add(timeout))
    }

    /// Why nothing is heard at present; `None` when the daemon answered last. It is up to date when
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
            // Without a time it comes back with an event or an error.
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
