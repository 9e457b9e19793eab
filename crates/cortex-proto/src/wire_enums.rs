//! The enums of the extensions, which are words on the wire. Decoding keeps an unknown word in
//! `Other`, because a later level may define it.

use std::fmt;

use serde::{Serialize, Serializer};

/// Defines an enum that is a word on the wire: `From<&str>` decodes the word, `Display` gives it.
macro_rules! wire_enum {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
            /// A word that this crate does not know.
            Other(String),
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            /// The word on the wire.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

wire_enum! {
    /// The hold of a topic: what keeps the topic registered.
    Hold {
        /// The owner's process: when it ends and the endpoint is dead, the daemon evicts the topic.
        Process = "process",
        /// A session: when its lease ends, the daemon evicts the topic.
        Session = "session",
        /// No process and no session: the topic stays until a client unregisters it.
        Static = "static",
    }
}

wire_enum! {
    /// The daemon's knowledge about a topic's endpoint.
    EndpointState {
        /// The daemon has not probed the endpoint, or could not judge it.
        Unknown = "unknown",
        /// The endpoint accepts connections.
        Alive = "alive",
        /// The last probe was refused, or found no socket.
        Dead = "dead",
        /// No probe has reached the endpoint for 30 s. Another node may register the name.
        Unreachable = "unreachable",
        /// The owner's process has ended, and the daemon has not judged the endpoint dead.
        Orphaned = "orphaned",
    }
}

wire_enum! {
    /// The kind of a change to a topic.
    EventKind {
        /// A publisher registered a new topic. It goes to the end of the list.
        Registered = "registered",
        /// A publisher registered the topic again. It keeps its place in the list.
        Updated = "updated",
        /// A client unregistered the topic.
        Unregistered = "unregistered",
        /// The daemon removed the topic.
        Evicted = "evicted",
    }
}

wire_enum! {
    /// The reason for a topic's removal.
    RemovalReason {
        /// A client unregistered the topic.
        Unregistered = "unregistered",
        /// The owner's process ended, and the endpoint is dead.
        OwnerExited = "owner exited",
        /// The lease of the topic's session ended.
        LeaseExpired = "lease expired",
        /// The endpoint was alive before, and is dead now.
        EndpointDead = "endpoint dead",
    }
}
