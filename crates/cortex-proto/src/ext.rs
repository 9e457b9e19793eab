//! The extensions: what travels under the top-level key `ext`, in requests and in responses.
//!
//! A daemon or a peer that does not know the key ignores it. A request with `ext` gets a reply
//! with `ext`, so a reply without it comes from a daemon of level 0: the reference.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::reader::Reader;
use crate::{DecodeError, DecodeErrorKind};

/// The level of the extensions that this crate speaks.
pub const EXTENSION_LEVEL: u64 = 1;

/// What a request adds to the legacy protocol. Empty, it asks for what there is to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestExt {
    /// REGISTER: what keeps the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// REGISTER and RENEW: the session that keeps the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// UNREGISTER: only if this node has the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher_node: Option<String>,
    /// UNREGISTER: only if the topic is still the one of this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// A session: topics of one user that stay for as long as somebody renews it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The session's name among its user's: 1 to 64 bytes.
    pub id: String,
    /// For how long it stays without being renewed, in ms; 10 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// What keeps a topic registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The process that registered it: the topic goes when the process is gone.
    Process,
    /// A session, which must be renewed.
    Session,
    /// Nothing: the topic stays until it is unregistered.
    Static,
    /// A word of a later level.
    Other(String),
}

/// What is known of the place where a topic's publisher sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointState {
    /// Nobody has looked, or it could not be told.
    Unknown,
    /// Somebody listens there.
    Alive,
    /// Somebody listens there, but the process that registered the topic is gone.
    Orphaned,
    /// A word of a later level.
    Other(String),
}

/// What a daemon's answer adds to the legacy protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResponseExt {
    /// Hello: the level of the extensions that the daemon speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u64>,
    /// Hello: the daemon's name and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Hello: the number of this history; it changes when history is lost and at a new boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Hello and REGISTER: how many changes there have been in this epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Hello: the daemon's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// Hello: how long the daemon has been running, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Hello: how many topics there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<u64>,
    /// LOOKUP: what is known of the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryExt>,
    /// LIST: what is known of each topic, in the order of the response's `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<EntryExt>>,
    /// REGISTER in a session and RENEW: for how long the session stays from now on, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// RENEW: whether the daemon knows the session. If not, its topics must be registered again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<bool>,
}

/// What a daemon knows of a topic beyond what its publisher said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryExt {
    /// The user that registered it; `None` when the daemon cannot tell.
    pub uid: Option<u64>,
    /// The process that registered it; `None` when the daemon cannot tell.
    pub pid: Option<u64>,
    /// What keeps it.
    pub hold: Hold,
    /// The change that made it what it is.
    pub revision: u64,
    /// How long ago that was, in ms.
    pub age_ms: u64,
    /// What is known of the place where its publisher sends.
    pub endpoint: EndpointState,
}

impl From<&str> for Hold {
    fn from(word: &str) -> Self {
        match word {
            "process" => Self::Process,
            "session" => Self::Session,
            "static" => Self::Static,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Hold {
    /// The word of the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Session => "session",
            Self::Static => "static",
            Self::Other(word) => word,
        })
    }
}

impl Serialize for Hold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<&str> for EndpointState {
    fn from(word: &str) -> Self {
        match word {
            "unknown" => Self::Unknown,
            "alive" => Self::Alive,
            "orphaned" => Self::Orphaned,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for EndpointState {
    /// The word of the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Orphaned => "orphaned",
            Self::Other(word) => word,
        })
    }
}

impl Serialize for EndpointState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl RequestExt {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut ext = Self::default();
        each_key(reader, |reader, key| {
            match key {
                "hold" => ext.hold = reader.optional_text()?.map(Hold::from),
                "session" => ext.session = Session::read(reader)?,
                "publisher_node" => ext.publisher_node = reader.optional_text()?.map(str::to_owned),
                "revision" => ext.revision = reader.optional_unsigned()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(ext)
    }
}

impl Session {
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        if reader.nil() {
            return Ok(None);
        }
        let at = reader.offset();
        let (mut id, mut lease_ms) = (None, None);
        each_key(reader, |reader, key| {
            match key {
                "id" => id = Some(reader.text()?.to_owned()),
                "lease_ms" => lease_ms = reader.optional_unsigned()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        let missing = || DecodeError::new(at, DecodeErrorKind::MissingKey { key: "id" });
        Ok(Some(Self { id: id.ok_or_else(missing)?, lease_ms }))
    }
}

impl ResponseExt {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut ext = Self::default();
        each_key(reader, |reader, key| {
            match key {
                "level" => ext.level = reader.optional_unsigned()?,
                "server" => ext.server = reader.optional_text()?.map(str::to_owned),
                "epoch" => ext.epoch = reader.optional_unsigned()?,
                "revision" => ext.revision = reader.optional_unsigned()?,
                "pid" => ext.pid = reader.optional_unsigned()?,
                "uptime_ms" => ext.uptime_ms = reader.optional_unsigned()?,
                "topics" => ext.topics = reader.optional_unsigned()?,
                "entry" => ext.entry = EntryExt::read_optional(reader)?,
                "entries" => ext.entries = EntryExt::read_all(reader)?,
                "lease_ms" => ext.lease_ms = reader.optional_unsigned()?,
                "known" => ext.known = reader.optional_boolean()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(ext)
    }
}

impl EntryExt {
    fn read_optional(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        if reader.nil() { Ok(None) } else { Self::read(reader).map(Some) }
    }

    fn read_all(reader: &mut Reader<'_>) -> Result<Option<Vec<Self>>, DecodeError> {
        let Some(count) = reader.optional_array()? else {
            return Ok(None);
        };
        // Collected one by one: the array's length is only a claim.
        let mut entries = Vec::new();
        for index in 0..count {
            let entry = Self::read(reader).map_err(|error| error.within(&format!("[{index}]")))?;
            entries.push(entry);
        }
        Ok(Some(entries))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let (mut uid, mut pid, mut hold, mut endpoint) = (None, None, None, None);
        let (mut revision, mut age_ms) = (None, None);
        each_key(reader, |reader, key| {
            match key {
                "uid" => uid = reader.optional_unsigned()?,
                "pid" => pid = reader.optional_unsigned()?,
                "hold" => hold = reader.optional_text()?.map(Hold::from),
                "revision" => revision = reader.optional_unsigned()?,
                "age_ms" => age_ms = reader.optional_unsigned()?,
                "endpoint" => endpoint = reader.optional_text()?.map(EndpointState::from),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        let missing = |key| DecodeError::new(at, DecodeErrorKind::MissingKey { key });
        Ok(Self {
            uid,
            pid,
            hold: hold.ok_or_else(|| missing("hold"))?,
            revision: revision.ok_or_else(|| missing("revision"))?,
            age_ms: age_ms.ok_or_else(|| missing("age_ms"))?,
            endpoint: endpoint.ok_or_else(|| missing("endpoint"))?,
        })
    }
}

/// Walks through a map with text keys; an error is told as one inside the key's value.
fn each_key<'a>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>, &'a str) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for _ in 0..reader.map()? {
        let key = reader.text().map_err(|error| error.within("(key)"))?;
        read(reader, key).map_err(|error| error.within(key))?;
    }
    Ok(())
}
