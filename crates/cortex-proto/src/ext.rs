//! The extensions: what travels under the top-level key `ext`, in requests and in responses.
//!
//! A daemon or a peer that does not know the key ignores it. A request with `ext` gets a reply
//! with `ext`, so a reply without it comes from a daemon of level 0: the reference.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::reader::Reader;
use crate::wire_enums::{EndpointState, Hold};
use crate::{DecodeError, DecodeErrorKind, EventExt};

/// The level of the extensions that this crate speaks.
pub const EXTENSION_LEVEL: u64 = 1;

/// The longest time for which a daemon holds a reply back, in ms.
pub const MAX_WAIT_MS: u64 = 60_000;

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
    /// WATCH: only topics whose name passes this [`TopicFilter`](crate::TopicFilter).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// WATCH: only what happened after this; without it, all that there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// WAIT and WATCH: how long the reply may be held back, in ms; at most [`MAX_WAIT_MS`], which
    /// is also what counts when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// WATCH: the most events in the reply; the daemon may have a lower bound of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// A place in a daemon's history: up to where a watch has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Since {
    /// The number of the history.
    pub epoch: u64,
    /// The last change that was seen.
    pub revision: u64,
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

/// What a daemon's answer adds to the legacy protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResponseExt {
    /// Hello: the level of the extensions that the daemon speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u64>,
    /// Hello: the daemon's name and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Hello and WATCH: the number of this history; it changes when history is lost and at a new
    /// boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Hello: how many changes there have been in this epoch. REGISTER: the change that made the
    /// topic what it is. WATCH: how far this reply has looked, the next request's
    /// [`since`](RequestExt::since).
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
    /// WATCH: true when the response's `topics` are all that there are, and what was known before
    /// is to be forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
    /// WATCH: what happened, in the order in which it did. None is an empty list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<EventExt>>,
    /// STATS: the daemon's counters and gauges by name. When read, these are all keys that this
    /// crate has no other use for and whose value is an unsigned integer.
    #[serde(flatten)]
    pub counts: BTreeMap<String, u64>,
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

impl RequestExt {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut ext = Self::default();
        for_each_entry(reader, |reader, key| {
            match key {
                "hold" => ext.hold = reader.read_optional_text()?.map(Hold::from),
                "session" => ext.session = Session::read(reader)?,
                "publisher_node" => {
                    ext.publisher_node = reader.read_optional_text()?.map(str::to_owned);
                }
                "revision" => ext.revision = reader.read_optional_unsigned()?,
                "filter" => ext.filter = reader.read_optional_text()?.map(str::to_owned),
                "since" => ext.since = Since::read(reader)?,
                "wait_ms" => ext.wait_ms = reader.read_optional_unsigned()?,
                "limit" => ext.limit = reader.read_optional_unsigned()?,
                _ => reader.skip_value()?,
            }
            Ok(())
        })?;
        Ok(ext)
    }
}

impl Since {
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        if reader.skip_nil() {
            return Ok(None);
        }
        let at = reader.offset();
        let (mut epoch, mut revision) = (None, None);
        for_each_entry(reader, |reader, key| {
            match key {
                "epoch" => epoch = reader.read_optional_unsigned()?,
                "revision" => revision = reader.read_optional_unsigned()?,
                _ => reader.skip_value()?,
            }
            Ok(())
        })?;
        let missing = |key| DecodeError::new(at, DecodeErrorKind::MissingKey { key });
        Ok(Some(Self {
            epoch: epoch.ok_or_else(|| missing("epoch"))?,
            revision: revision.ok_or_else(|| missing("revision"))?,
        }))
    }
}

impl Session {
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        if reader.skip_nil() {
            return Ok(None);
        }
        let at = reader.offset();
        let (mut id, mut lease_ms) = (None, None);
        for_each_entry(reader, |reader, key| {
            match key {
                "id" => id = Some(reader.read_text()?.to_owned()),
                "lease_ms" => lease_ms = reader.read_optional_unsigned()?,
                _ => reader.skip_value()?,
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
        for_each_entry(reader, |reader, key| {
            match key {
                "level" => ext.level = reader.read_optional_unsigned()?,
                "server" => ext.server = reader.read_optional_text()?.map(str::to_owned),
                "epoch" => ext.epoch = reader.read_optional_unsigned()?,
                "revision" => ext.revision = reader.read_optional_unsigned()?,
                "pid" => ext.pid = reader.read_optional_unsigned()?,
                "uptime_ms" => ext.uptime_ms = reader.read_optional_unsigned()?,
                "topics" => ext.topics = reader.read_optional_unsigned()?,
                "entry" => ext.entry = EntryExt::read_optional(reader)?,
                "entries" => ext.entries = EntryExt::read_all(reader)?,
                "lease_ms" => ext.lease_ms = reader.read_optional_unsigned()?,
                "known" => ext.known = reader.read_optional_boolean()?,
                "snapshot" => ext.snapshot = reader.read_optional_boolean()?,
                "events" => ext.events = EventExt::read_all(reader)?,
                other => match reader.read_unsigned_or_skip()? {
                    Some(count) => drop(ext.counts.insert(other.to_owned(), count)),
                    // A key twice: the last counts.
                    None => drop(ext.counts.remove(other)),
                },
            }
            Ok(())
        })?;
        Ok(ext)
    }
}

impl EntryExt {
    fn read_optional(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        if reader.skip_nil() { Ok(None) } else { Self::read(reader).map(Some) }
    }

    fn read_all(reader: &mut Reader<'_>) -> Result<Option<Vec<Self>>, DecodeError> {
        read_items(reader, Self::read)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let (mut uid, mut pid, mut hold, mut endpoint) = (None, None, None, None);
        let (mut revision, mut age_ms) = (None, None);
        for_each_entry(reader, |reader, key| {
            match key {
                "uid" => uid = reader.read_optional_unsigned()?,
                "pid" => pid = reader.read_optional_unsigned()?,
                "hold" => hold = reader.read_optional_text()?.map(Hold::from),
                "revision" => revision = reader.read_optional_unsigned()?,
                "age_ms" => age_ms = reader.read_optional_unsigned()?,
                "endpoint" => endpoint = reader.read_optional_text()?.map(EndpointState::from),
                _ => reader.skip_value()?,
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

/// Reads an array, or nil; an error is told as one inside the item.
pub(crate) fn read_items<'a, T>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Option<Vec<T>>, DecodeError> {
    let Some(count) = reader.read_optional_array_header()? else {
        return Ok(None);
    };
    // Collected one by one: the array's length is only a claim.
    let mut items = Vec::new();
    for index in 0..count {
        items.push(read(reader).map_err(|error| error.within(&format!("[{index}]")))?);
    }
    Ok(Some(items))
}

/// Walks through a map with text keys; an error is told as one inside the key's value.
pub(crate) fn for_each_entry<'a>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>, &'a str) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for _ in 0..reader.read_map_header()? {
        let key = reader.read_text().map_err(|error| error.within("(key)"))?;
        read(reader, key).map_err(|error| error.within(key))?;
    }
    Ok(())
}
