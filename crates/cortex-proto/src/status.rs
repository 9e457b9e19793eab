//! The statuses of responses.

use std::fmt;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, U64Deserializer};
use serde_repr::{Deserialize_repr, Serialize_repr};

/// The result of a request. The discriminant is its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum DiscoveryStatus {
    /// The daemon has done what the request asked.
    Ok = 0,
    /// The topic is not registered.
    NotFound = 1,
    /// Another node has registered the topic.
    AlreadyExists = 2,
    /// The daemon refused the request or could not read it; the message gives the reason.
    Error = 3,
}

impl DiscoveryStatus {
    /// The status that has this number on the wire, or `None` for an unknown number.
    #[must_use]
    pub fn from_number(number: i128) -> Option<Self> {
        let code: U64Deserializer<ValueError> = u64::try_from(number).ok()?.into_deserializer();
        Self::deserialize(code).ok()
    }
}

impl fmt::Display for DiscoveryStatus {
    /// The reference's spelling of the name (`NOT_FOUND`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::Error => "ERROR",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_four_numbers_are_statuses() {
        for number in -3..1000 {
            let status = DiscoveryStatus::from_number(number);
            assert_eq!(status.is_some(), (0..4).contains(&number), "{number}");
            assert!(status.is_none_or(|status| i128::from(status as u8) == number));
        }
    }
}
