//! Which topics a watch or a list is about.

use std::fmt;
use std::str::FromStr;

use fast_glob::{glob_match, validate};
use thiserror::Error;

/// A pattern of topic names: `*` stands for anything within a segment, `**` as a whole segment for
/// any segments, `?` for one character of a segment, `[a-z]` and `[!a-z]` for one of a set,
/// `{left,right}` for one of several; a backslash takes the next character as it is. The whole
/// name has to match, and case counts.
///
/// Matching takes time in proportion to name and pattern at worst, whatever the pattern.
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
    /// The pattern as it is matched, byte by byte: see [`squeeze`].
    squeezed: Vec<u8>,
    /// The pattern's characters beyond ASCII, in order.
    alphabet: Vec<char>,
}

/// The characters that do not always mean themselves.
const SPECIAL: [char; 8] = ['*', '?', '[', ']', '{', '}', '\\', '!'];

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicFilterError {
    /// It has no characters, so that no name matches.
    #[error("a pattern cannot be empty")]
    Empty,
    /// It has more than [`TopicFilter::MAX_BYTES`] bytes.
    #[error("a pattern of {length} bytes is too long: at most {max} are allowed", max = TopicFilter::MAX_BYTES)]
    TooLong {
        /// The bytes it has.
        length: usize,
    },
    /// A bracket or a brace is not closed, nothing follows a backslash, or there are more than ten
    /// braces.
    #[error("{problem}")]
    Malformed {
        /// What is wrong, and where.
        problem: String,
    },
    /// It has more than [`TopicFilter::MAX_ALPHABET`] different characters beyond ASCII.
    #[error("a pattern with {count} different characters beyond ASCII cannot be matched: at most {max} are allowed", max = TopicFilter::MAX_ALPHABET)]
    TooManyCharacters {
        /// How many it has.
        count: usize,
    },
}

impl TopicFilter {
    /// The longest pattern, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 1024;
    /// The most different characters beyond ASCII in a pattern.
    pub const MAX_ALPHABET: usize = 63;

    /// Checks a pattern.
    ///
    /// # Errors
    /// When it is empty, too long, or malformed.
    pub fn new(pattern: impl Into<String>) -> Result<Self, TopicFilterError> {
        let pattern = pattern.into();
        match pattern.len() {
            0 => return Err(TopicFilterError::Empty),
            1..=Self::MAX_BYTES => {}
            length => return Err(TopicFilterError::TooLong { length }),
        }
        validate(&pattern)
            .map_err(|error| TopicFilterError::Malformed { problem: error.to_string() })?;
        let mut alphabet: Vec<_> = pattern.chars().filter(|c| !c.is_ascii()).collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        if alphabet.len() > Self::MAX_ALPHABET {
            return Err(TopicFilterError::TooManyCharacters { count: alphabet.len() });
        }
        // The matcher would take a pattern that begins so for its opposite.
        let escape = if pattern.starts_with('!') { &b"\\"[..] } else { b"" };
        let squeezed = [escape, &squeeze(&pattern, &alphabet)].concat();
        Ok(Self { pattern, squeezed, alphabet })
    }

    /// The pattern that only this name matches.
    ///
    /// # Errors
    /// When it would be too long or have too many different characters.
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

    /// Whether a topic of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if name.is_ascii() {
            glob_match(&self.squeezed, name)
        } else {
            glob_match(&self.squeezed, squeeze(name, &self.alphabet))
        }
    }

    /// The only name that matches, when the pattern has no special character and so means itself.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let is_plain = !self.pattern.contains(SPECIAL);
        is_plain.then_some(&*self.pattern)
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }
}

/// Makes one byte of each character, so that a matcher of bytes matches characters: ASCII stays,
/// each character of the alphabet has a byte of its own, and those that lie between two of it, which
/// only a wildcard or a range can match, have one together. Order stays, so ranges mean what they
/// say.
fn squeeze(text: &str, alphabet: &[char]) -> Vec<u8> {
    let byte = |character: char| {
        u8::try_from(character).ok().filter(u8::is_ascii).unwrap_or_else(|| {
            let place = match alphabet.binary_search(&character) {
                Ok(at) => 2 * at + 1,
                Err(at) => 2 * at,
            };
            // At most 2 * 63, by the alphabet's bound.
            u8::try_from(0x80 + place).unwrap_or(u8::MAX)
        })
    };
    text.chars().map(byte).collect()
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
