//! Poll tokens made from descriptor numbers, in a range of their own.
//!
//! Two open descriptors have different numbers, so the tokens need no allocation. The system uses a
//! number again after a close, and a late event may then have the token of another descriptor. So
//! the users of these tokens check the descriptor after each event.

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

    /// The token of a descriptor. `None` when the range is too small for its number.
    pub(super) fn of(&self, descriptor: &impl AsRawFd) -> Option<Token> {
        let number = usize::try_from(descriptor.as_raw_fd()).ok()?;
        let token = Token(self.0.start.checked_add(number)?);
        self.owns(token).then_some(token)
    }
}
