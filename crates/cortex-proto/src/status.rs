//! How a request ended.

use std::fmt;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, U64Deserializer};
use serde_repr::{Deserialize_repr, Serialize_repr};

/// The status of a reply, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum DiscoveryStatus {
    /// Done.
    Ok = 0,
    /// There is no such topic.
    NotFound = 1,
    /// Another node has registered the topic.
    AlreadyExists = 2,
    /// The request was refused or could not be understood; the message says why.
    Error = 3,
}

impl DiscoveryStatus {
    /// The status with this number on the wire, if there is one.
    #[must_use]
    pub fn from_number(number: i128) -> Option<Self> {
        let code: U64Deserializer<ValueError> = u64::try_from(number).ok()?.into_deserializer();
        Self::deserialize(code).ok()
    }
}

impl fmt::Display for DiscoveryStatus {
    /// The name as the reference spells it (`NOT_FOUND`).
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
