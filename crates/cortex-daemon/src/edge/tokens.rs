//! Poll tokens that are descriptors' numbers, shifted into a range of their own.
//!
//! No two open descriptors have the same number, so nothing has to be handed out or taken back.
//! A number comes back after a close, and then an event that is late may reach the descriptor's
//! successor: whoever uses these tokens takes an event as a hint to look, never as a fact.

use std::ops::Range;
use std::os::fd::AsRawFd;

use mio::Token;

#[derive(Debug)]
pub(super) struct Tokens(Range<usize>);

impl Tokens {
    pub(super) fn new(range: Range<usize>) -> Self {
        Self(range)
    }

    pub(super) fn owns(&self, token: Token) -> bool {
        self.0.contains(&token.0)
    }

    /// `None` when the range is too small for the descriptor's number.
    pub(super) fn of(&self, descriptor: &impl AsRawFd) -> Option<Token> {
        let number = usize::try_from(descriptor.as_raw_fd()).ok()?;
        let token = Token(self.0.start.checked_add(number)?);
        self.owns(token).then_some(token)
    }
}
