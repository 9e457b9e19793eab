//! The limits of a pattern, and what can be wrong with it.

use thiserror::Error;

/// The greatest length of a pattern without wildcards, in bytes.
pub(super) const MAX_BYTES: usize = 1024;
/// The greatest length of a pattern with wildcards, in bytes.
pub(super) const MAX_WILDCARD_BYTES: usize = 256;

/// The reason why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicFilterError {
    /// The text is empty, so no name could match.
    #[error("a pattern cannot be empty")]
    Empty,
    /// The pattern has more than [`TopicFilter::MAX_WILDCARD_BYTES`](crate::TopicFilter::MAX_WILDCARD_BYTES) bytes and a wildcard, or more
    /// than [`TopicFilter::MAX_BYTES`](crate::TopicFilter::MAX_BYTES) bytes.
    #[error(
        "a pattern of {length} bytes is too long: a pattern {} wildcards has at most {max} bytes",
        if *max == MAX_BYTES { "without" } else { "with" }
    )]
    TooLong {
        /// The pattern's length in bytes.
        length: usize,
        /// The limit for this pattern, in bytes.
        max: usize,
    },
    /// A set has no closing bracket, or no member.
    #[error("a `[` has no `]`: write `\\[` for the character")]
    OpenBracket,
    /// A set has a `/` as a member or as an end of a range. A set matches a character of a segment.
    #[error("`/` cannot be in a set: no character of a segment is `/`")]
    SlashInSet,
    /// A range ends before its start.
    #[error("the range from `{start}` to `{end}` is empty")]
    EmptyRange {
        /// The range's first character.
        start: char,
        /// The range's last character.
        end: char,
    },
    /// The pattern ends in a backslash that no character follows.
    #[error("nothing follows the last backslash: write `\\\\` for the character")]
    TrailingBackslash,
    /// A brace without a backslash before it.
    #[error("a brace has no meaning in a pattern: write `\\{brace}` for the character")]
    Brace {
        /// The brace.
        brace: char,
    },
}
