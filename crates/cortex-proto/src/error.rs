//! Why bytes are not a message of the protocol.

use thiserror::Error;

use crate::TopicNameError;

/// Bytes that are not a message of the protocol: where, and what is wrong there.
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

    /// The same error, told as one inside `field`.
    pub(crate) fn within(mut self, field: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => field.to_owned(),
            inner if inner.starts_with('[') => format!("{field}{inner}"),
            inner => format!("{field}.{inner}"),
        };
        self
    }

    /// The field's path, such as `topic_info.fingerprint` or `topics[2].name`; empty when the
    /// message as a whole is meant.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The byte of the whole message at which the trouble starts, counted from 0.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> &DecodeErrorKind {
        &self.kind
    }
}

fn field_prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field} ") }
}

/// What can be wrong with a message's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// A value says that it is longer than what is left of the message.
    #[error("the message ends too early: {needed} B are needed here, {left} B are left")]
    Truncated {
        /// The fewest bytes that the value needs from here.
        needed: u64,
        /// The bytes that are there.
        left: usize,
    },
    /// The message goes on after its value.
    #[error("{count} B too many after the message")]
    TrailingBytes {
        /// How many bytes follow.
        count: usize,
    },
    /// A value is of another type than the protocol's.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the protocol wants here.
        expected: &'static str,
        /// The type that is here.
        found: &'static str,
    },
    /// The byte 0xc1, which MessagePack never uses.
    #[error("0xc1 is not MessagePack")]
    ReservedMarker,
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8")]
    InvalidUtf8,
    /// Arrays and maps inside one another, deeper than the limit.
    #[error("nested more than {limit} levels deep")]
    TooDeep {
        /// The levels that are allowed.
        limit: usize,
    },
    /// A key that must be there is not.
    #[error("`{key}` is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key inside a topic info that is not one of its five.
    #[error("`{key}` does not belong here")]
    UnknownKey {
        /// The key, shortened when it is long.
        key: String,
    },
    /// An integer that is none of the values allowed here.
    #[error("expected {expected}, found {found}")]
    OutOfRange {
        /// What the protocol wants here.
        expected: &'static str,
        /// The number that is here.
        found: i128,
    },
    /// A topic name that is empty or too long (at most [`TopicName::MAX_BYTES`](crate::TopicName::MAX_BYTES)).
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
}
