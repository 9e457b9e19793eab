//! Patterns of topic names.

mod error;
mod matcher;
mod parser;

use std::fmt;
use std::str::FromStr;

pub use self::error::TopicFilterError;
use self::error::{MAX_BYTES, MAX_WILDCARD_BYTES};
use self::parser::Parsed;

/// A pattern that selects topics by their name.
///
/// | pattern | matches |
/// |---|---|
/// | `*` | any characters of one segment, or none |
/// | `**` as a whole segment | any segments, or none; beside other characters it means `*` |
/// | `?` | one character, not `/` |
/// | `[a-z]` | one character of the set |
/// | `[!a-z]`, `[^a-z]` | one character that is neither in the set nor `/` |
/// | `\` | the next character, even if it is special |
///
/// The whole name must match; upper and lower case differ. Braces are refused: other pattern
/// languages use them for alternatives.
///
/// A name is compared in bounded time: see [`match_cost`](Self::match_cost).
///
/// ```
/// use cortex_proto::TopicFilter;
///
/// let filter = TopicFilter::new("/camera/*")?;
/// assert!(filter.matches("/camera/left"));
/// assert!(!filter.matches("/camera/left/image"));
/// # Ok::<(), cortex_proto::TopicFilterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter {
    pattern: String,
    parsed: Parsed,
    /// The most comparisons for each byte of a name.
    cost_per_byte: usize,
}

/// The characters that do not always mean themselves.
const SPECIAL: [char; 8] = ['*', '?', '[', ']', '{', '}', '\\', '!'];

impl TopicFilter {
    /// The greatest length of a pattern without wildcards, in bytes of UTF-8, backslashes included.
    pub const MAX_BYTES: usize = MAX_BYTES;
    /// The greatest length of a pattern with wildcards (`*`, `?` or a set), in bytes of UTF-8.
    ///
    /// It bounds the cost of a match together with the length of a name.
    pub const MAX_WILDCARD_BYTES: usize = MAX_WILDCARD_BYTES;

    /// Parses a pattern.
    ///
    /// # Errors
    /// When the pattern is empty, too long or malformed.
    pub fn new(pattern: impl Into<String>) -> Result<Self, TopicFilterError> {
        let pattern = pattern.into();
        let length = pattern.len();
        if length == 0 {
            return Err(TopicFilterError::Empty);
        }
        let max = if parser::has_wildcards(&pattern) {
            Self::MAX_WILDCARD_BYTES
        } else {
            Self::MAX_BYTES
        };
        if length > max {
            return Err(TopicFilterError::TooLong { length, max });
        }
        let parsed = parser::parse(&pattern)?;
        // A byte is compared with the prefix, or with what follows the prefix.
        let cost_per_byte = matcher::cost_per_byte(&parsed.segments).max(1);
        Ok(Self { pattern, parsed, cost_per_byte })
    }

    /// Makes the pattern that matches this name alone: special characters get a backslash.
    ///
    /// # Errors
    /// When the name is empty, or longer than [`MAX_BYTES`](Self::MAX_BYTES) with its backslashes.
    pub fn exactly(name: &str) -> Result<Self, TopicFilterError> {
        let mut pattern = String::with_capacity(name.len());
        for character in name.chars() {
            if SPECIAL.contains(&character) {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        Self::new(pattern)
    }

    /// Whether the filter selects a topic of this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Parsed { prefix, segments } = &self.parsed;
        match name.strip_prefix(prefix.as_str()) {
            Some(rest) if segments.is_empty() => rest.is_empty(),
            Some(rest) => matcher::matches(segments, rest),
            None => false,
        }
    }

    /// The only name that matches, when the pattern has no wildcard.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.parsed.segments.is_empty().then_some(&self.parsed.prefix)
    }

    /// The most comparisons of characters that it takes to match names of so many bytes together.
    ///
    /// That is the names' bytes times the pattern's characters from the first wildcard on, without
    /// stars, or the names' bytes alone when there are no such characters.
    #[must_use]
    pub fn match_cost(&self, name_bytes: usize) -> usize {
        name_bytes.saturating_mul(self.cost_per_byte)
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.pattern)
    }
}

impl FromStr for TopicFilter {
    type Err = TopicFilterError;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        Self::new(pattern)
    }
}
