//! Which topics a watch or a list is about.

use std::fmt;
use std::iter::Peekable;
use std::str::{Chars, FromStr};

use fast_glob::glob_match;
use thiserror::Error;

/// A pattern of topic names: `*` stands for anything within a segment, `**` as a whole segment for
/// any segments, `?` for one character of a segment, `[a-z]` and `[!a-z]` for one that is or is not
/// in a set; a backslash takes the next character as it is. The whole name has to match, and case
/// counts.
///
/// Matching takes at most time in proportion to the pattern's length times the name's: see
/// [`effort`](Self::effort).
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
    /// The only name that matches, if there is but one.
    name: Option<String>,
    /// The pattern as it is matched, byte by byte: see [`squeeze`].
    squeezed: Vec<u8>,
    /// The pattern's characters beyond ASCII, in order.
    alphabet: Vec<char>,
    /// The longest row of characters between a `*` and the next one.
    longest_run: usize,
}

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
    /// A bracket is not closed, or has nothing in it.
    #[error("a `[` has no `]`: write `\\[` for the character")]
    OpenBracket,
    /// A set with a `/`: a set stands for a character of a segment.
    #[error("`/` cannot be in a set: no character of a segment is one")]
    SlashInSet,
    /// A range whose end comes before its start.
    #[error("nothing lies from `{start}` to `{end}`")]
    EmptyRange {
        /// Its first character.
        start: char,
        /// Its last character.
        end: char,
    },
    /// Nothing follows a backslash.
    #[error("nothing follows the last backslash: write `\\\\` for the character")]
    TrailingBackslash,
    /// A brace, which other patterns have for alternatives.
    #[error("a brace means nothing in a pattern: write `\\{brace}` for the character")]
    Brace {
        /// The brace.
        brace: char,
    },
    /// It has more than [`TopicFilter::MAX_ALPHABET`] different characters beyond ASCII.
    #[error("a pattern with {count} different characters beyond ASCII cannot be matched: at most {max} are allowed", max = TopicFilter::MAX_ALPHABET)]
    TooManyCharacters {
        /// How many it has.
        count: usize,
    },
}

/// The characters that do not always mean themselves.
const SPECIAL: [char; 8] = ['*', '?', '[', ']', '{', '}', '\\', '!'];

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
        let mut alphabet: Vec<_> = pattern.chars().filter(|c| !c.is_ascii()).collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        if alphabet.len() > Self::MAX_ALPHABET {
            return Err(TopicFilterError::TooManyCharacters { count: alphabet.len() });
        }
        let (plain, name) = translate(&pattern)?;
        let squeezed = squeeze(&plain, &alphabet);
        // Before the first `*` no character is looked at twice.
        let longest_run = plain.split('*').skip(1).map(str::len).max().unwrap_or(0);
        Ok(Self { pattern, name, squeezed, alphabet, longest_run })
    }

    /// The pattern that only this name matches.
    ///
    /// # Errors
    /// When it would be too long or have too many different characters.
    pub fn exactly(name: &str) -> Result<Self, TopicFilterError> {
        let mut pattern = String::with_capacity(name.len());
        for character in name.chars() {
            push_literal(&mut pattern, character);
        }
        Self::new(pattern)
    }

    /// Whether a topic of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if let Some(only) = &self.name {
            only == name
        } else if name.is_ascii() {
            glob_match(&self.squeezed, name)
        } else {
            glob_match(&self.squeezed, squeeze(name, &self.alphabet))
        }
    }

    /// The only name that matches, when nothing in the pattern stands for something else.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How many steps it takes at most, each of about a nanosecond, to match names that have so many
    /// bytes together.
    #[must_use]
    pub fn effort(&self, name_bytes: usize) -> usize {
        name_bytes.saturating_mul(1 + self.longest_run)
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }
}

/// Writes a pattern as the matcher understands it, which has more special characters and escapes
/// than we do; and gives the only name that matches, if there is but one.
fn translate(pattern: &str) -> Result<(String, Option<String>), TopicFilterError> {
    let (mut plain, mut name) = (String::new(), Some(String::new()));
    let mut rest = pattern.chars().peekable();
    let mut is_segment_start = true;
    while let Some(character) = rest.next() {
        let literal = match character {
            '*' => {
                let mut stars = 1;
                while rest.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                let is_segment = is_segment_start && matches!(rest.peek(), None | Some('/'));
                plain.push_str(if is_segment && stars == 2 { "**" } else { "*" });
                None
            }
            '?' => {
                plain.push('?');
                None
            }
            '[' => {
                push_set(&mut plain, &mut rest)?;
                None
            }
            '{' | '}' => return Err(TopicFilterError::Brace { brace: character }),
            '\\' => Some(rest.next().ok_or(TopicFilterError::TrailingBackslash)?),
            other => Some(other),
        };
        match literal {
            Some(literal) => {
                push_literal(&mut plain, literal);
                if let Some(name) = &mut name {
                    name.push(literal);
                }
            }
            None => name = None,
        }
        is_segment_start = character == '/';
    }
    Ok((plain, name))
}

/// Takes what follows a `[`, up to its `]`. One that stands first is a member.
fn push_set(plain: &mut String, rest: &mut Peekable<Chars<'_>>) -> Result<(), TopicFilterError> {
    plain.push('[');
    if rest.next_if(|next| matches!(next, '!' | '^')).is_some() {
        // Only `**` leaves a segment.
        plain.push_str("!/");
    }
    let mut is_first = true;
    loop {
        let start = match rest.next().ok_or(TopicFilterError::OpenBracket)? {
            ']' if !is_first => break,
            '\\' => rest.next().ok_or(TopicFilterError::OpenBracket)?,
            other => other,
        };
        is_first = false;
        let mut ahead = rest.clone();
        let is_range = ahead.next() == Some('-') && !matches!(ahead.peek(), None | Some(']'));
        if !is_range {
            push_range(plain, start, start)?;
            continue;
        }
        *rest = ahead;
        let end = match rest.next().ok_or(TopicFilterError::OpenBracket)? {
            '\\' => rest.next().ok_or(TopicFilterError::OpenBracket)?,
            other => other,
        };
        push_range(plain, start, end)?;
    }
    plain.push(']');
    Ok(())
}

/// Writes the members of a set from `start` to `end`, without the `/` that may lie between them.
fn push_range(plain: &mut String, start: char, end: char) -> Result<(), TopicFilterError> {
    if end < start {
        return Err(TopicFilterError::EmptyRange { start, end });
    }
    if start == '/' || end == '/' {
        return Err(TopicFilterError::SlashInSet);
    }
    let mut push = |start, end| {
        push_member(plain, start);
        plain.push('-');
        push_member(plain, end);
    };
    if (start..=end).contains(&'/') {
        push(start, '.');
        push('0', end);
    } else {
        push(start, end);
    }
    Ok(())
}

/// Writes a character that means itself.
fn push_literal(pattern: &mut String, character: char) {
    if SPECIAL.contains(&character) {
        pattern.push('\\');
    }
    pattern.push(character);
}

/// Writes a character of a set that means itself.
fn push_member(pattern: &mut String, character: char) {
    if "]\\-![^".contains(character) {
        pattern.push('\\');
    }
    pattern.push(character);
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
