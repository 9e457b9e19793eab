//! The words of the extensions. A word that this crate does not know is kept: a later level may
//! have it.

use std::fmt;

use serde::{Serialize, Serializer};

/// Defines an enum of words with `From<&str>`, and with the word of the wire as its `Display`.
macro_rules! wire_enum {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
            /// A word of a later level.
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
            /// The word of the wire.
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
    /// What keeps a topic registered.
    Hold {
        /// The process that registered it: the topic goes when the process is gone.
        Process = "process",
        /// A session, which must be renewed.
        Session = "session",
        /// Nothing: the topic stays until it is unregistered.
        Static = "static",
    }
}

wire_enum! {
    /// What is known of the place where a topic's publisher sends.
    EndpointState {
        /// Nobody has looked, or it could not be told.
        Unknown = "unknown",
        /// Somebody listens there.
        Alive = "alive",
        /// Somebody listens there, but the process that registered the topic is gone.
        Orphaned = "orphaned",
    }
}

wire_enum! {
    /// What happened to a topic.
    EventKind {
        /// It is there and was not before: it is the last of the list.
        Registered = "registered",
        /// Its publisher registered it again; it keeps its place in the list.
        Updated = "updated",
        /// A peer unregistered it.
        Unregistered = "unregistered",
        /// The daemon removed it.
        Evicted = "evicted",
    }
}

wire_enum! {
    /// Why a topic is gone.
    RemovalReason {
        /// A peer unregistered it.
        Unregistered = "unregistered",
        /// The process that registered it is gone, and so is its endpoint.
        OwnerExited = "owner exited",
        /// Its session was not renewed.
        LeaseExpired = "lease expired",
        /// Its endpoint, once alive, is dead.
        EndpointDead = "endpoint dead",
    }
}
