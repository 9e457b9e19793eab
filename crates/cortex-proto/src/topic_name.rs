//! The names of topics.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// The name of a topic: 1 to 1,024 bytes of UTF-8.
///
/// [`new`](Self::new) checks the length, so a `TopicName` is always valid. The protocol has no other
/// rule: any characters are allowed, and a name need not start with a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TopicName(String);

impl TopicName {
    /// The greatest length of a name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 1024;

    /// Checks the length and makes a name.
    ///
    /// # Errors
    /// When the text is empty or longer than [`Self::MAX_BYTES`].
    pub fn new(name: impl Into<String>) -> Result<Self, TopicNameError> {
        let name = name.into();
        match name.len() {
            0 => Err(TopicNameError::Empty),
            1..=Self::MAX_BYTES => Ok(Self(name)),
            length => Err(TopicNameError::TooLong { length }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The reason why a text cannot be a topic's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicNameError {
    /// The text is empty.
    #[error("a topic name cannot be empty")]
    Empty,
    /// The text has more than [`TopicName::MAX_BYTES`] bytes.
    #[error("a topic name of {length} bytes is too long: at most {max} are allowed", max = TopicName::MAX_BYTES)]
    TooLong {
        /// The text's length in bytes.
        length: usize,
    },
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = TopicNameError;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_limited_in_bytes() {
        assert_eq!(TopicName::new(""), Err(TopicNameError::Empty));
        assert!(TopicName::new("a").is_ok());
        assert!(TopicName::new("a".repeat(1024)).is_ok());
        assert_eq!(TopicName::new("é".repeat(513)), Err(TopicNameError::TooLong { length: 1026 }));
    }
}
