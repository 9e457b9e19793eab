//! The commands of requests.

use std::fmt;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, U64Deserializer};
use serde_repr::{Deserialize_repr, Serialize_repr};

/// A command of the discovery protocol. The discriminant is its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum DiscoveryCommand {
    /// Register a topic.
    RegisterTopic = 1,
    /// Remove a topic.
    UnregisterTopic = 2,
    /// Get one topic.
    LookupTopic = 3,
    /// Get all topics.
    ListTopics = 4,
    /// Check that the daemon answers.
    Ping = 5,
    /// Get one topic; the reply waits until the topic is registered (extension, level 1).
    WaitTopic = 64,
    /// Get the events since a revision; the reply waits for the first one (extension, level 1).
    WatchTopics = 65,
    /// Renew a session's lease (extension, level 1).
    Renew = 66,
    /// Get the daemon's counters and gauges (extension, level 1).
    Stats = 67,
    /// End the parked requests of this connection that have this request's envelope (extension,
    /// level 1; hello tells whether the daemon knows it).
    Cancel = 68,
    /// Stop the daemon.
    Shutdown = 99,
}

/// The command of a decoded request. Decoding keeps an unknown number, so that the daemon's reply can
/// name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestedCommand {
    /// A command of the protocol.
    Known(DiscoveryCommand),
    /// Any other integer of MessagePack's range (-2^63 to 2^64 - 1).
    Unknown(i128),
}

impl RequestedCommand {
    /// The command that has this number on the wire.
    #[must_use]
    pub fn from_number(number: i128) -> Self {
        u64::try_from(number)
            .ok()
            .and_then(|code| {
                let code: U64Deserializer<ValueError> = code.into_deserializer();
                DiscoveryCommand::deserialize(code).ok()
            })
            .map_or(Self::Unknown(number), Self::Known)
    }

    /// The command's number on the wire.
    #[must_use]
    pub fn number(self) -> i128 {
        match self {
            Self::Known(command) => i128::from(command as u8),
            Self::Unknown(number) => number,
        }
    }
}

impl From<DiscoveryCommand> for RequestedCommand {
    fn from(command: DiscoveryCommand) -> Self {
        Self::Known(command)
    }
}

impl fmt::Display for RequestedCommand {
    /// The reference's spelling of the name (`LOOKUP_TOPIC`), or the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(command) => f.write_str(match command {
                DiscoveryCommand::RegisterTopic => "REGISTER_TOPIC",
                DiscoveryCommand::UnregisterTopic => "UNREGISTER_TOPIC",
                DiscoveryCommand::LookupTopic => "LOOKUP_TOPIC",
                DiscoveryCommand::ListTopics => "LIST_TOPICS",
                DiscoveryCommand::Ping => "PING",
                DiscoveryCommand::WaitTopic => "WAIT_TOPIC",
                DiscoveryCommand::WatchTopics => "WATCH_TOPICS",
                DiscoveryCommand::Renew => "RENEW",
                DiscoveryCommand::Stats => "STATS",
                DiscoveryCommand::Cancel => "CANCEL",
                DiscoveryCommand::Shutdown => "SHUTDOWN",
            }),
            Self::Unknown(number) => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_maps_to_its_command_and_back() {
        for number in [1, 2, 3, 4, 5, 64, 65, 66, 67, 68, 99] {
            let command = RequestedCommand::from_number(number);
            assert!(matches!(command, RequestedCommand::Known(_)), "{number} is a command");
            assert_eq!(command.number(), number);
        }
        for number in
            [0, 6, 42, 63, 69, 95, 98, 100, 256 + 5, -1, i128::from(i64::MIN), i128::from(u64::MAX)]
        {
            assert_eq!(RequestedCommand::from_number(number), RequestedCommand::Unknown(number));
        }
    }
}
