//! Errors of decoding.

use thiserror::Error;

use crate::TopicNameError;

/// The bytes are not a message of the protocol. The error has the field, the offset and the kind.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}at byte {offset}: {kind}", field_prefix(field))]
pub struct DecodeError {
    field: String,
    offset: usize,
    kind: DecodeErrorKind,
}

impl DecodeError {
    pub(crate) fn new(offset: usize, kind: DecodeErrorKind) -> Self {
        Self { field: String::new(), offset, kind }
    }

    /// Puts `field` in front of the error's path.
    pub(crate) fn within(mut self, field: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => field.to_owned(),
            inner if inner.starts_with('[') => format!("{field}{inner}"),
            inner => format!("{field}.{inner}"),
        };
        self
    }

    /// The field's path, such as `topic_info.fingerprint` or `topics[2].name`. Empty when the error
    /// concerns the whole message.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The offset of the first wrong byte in the whole message, counted from 0.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> &DecodeErrorKind {
        &self.kind
    }
}

fn field_prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field} ") }
}

/// The ways in which bytes can fail to be a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// A value claims more bytes than the message has left.
    #[error("the message ends too early: {needed} B are needed here, {left} B are left")]
    Truncated {
        /// The least number of bytes that the value needs from the offset on.
        needed: u64,
        /// The number of bytes from the offset to the end.
        left: usize,
    },
    /// More bytes follow the message's map.
    #[error("{count} B too many after the message")]
    TrailingBytes {
        /// The number of bytes that follow.
        count: usize,
    },
    /// A value has another type than the protocol requires.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The type that the protocol requires.
        expected: &'static str,
        /// The type of the value.
        found: &'static str,
    },
    /// The byte 0xc1, which MessagePack reserves.
    #[error("0xc1 is not MessagePack")]
    ReservedMarker,
    /// A text is not UTF-8.
    #[error("the text is not UTF-8")]
    InvalidUtf8,
    /// Arrays and maps are nested deeper than the limit.
    #[error("nested more than {limit} levels deep")]
    TooDeep {
        /// The greatest number of levels.
        limit: usize,
    },
    /// A required key is missing.
    #[error("`{key}` is missing")]
    MissingKey {
        /// The missing key.
        key: &'static str,
    },
    /// A topic info has a key that is not one of its five.
    #[error("`{key}` does not belong here")]
    UnknownKey {
        /// The key's first 64 characters.
        key: String,
    },
    /// An integer is outside the protocol's range.
    #[error("expected {expected}, found {found}")]
    OutOfRange {
        /// The range that the protocol requires.
        expected: &'static str,
        /// The integer.
        found: i128,
    },
    /// A topic name is empty, or longer than [`TopicName::MAX_BYTES`](crate::TopicName::MAX_BYTES).
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
}
