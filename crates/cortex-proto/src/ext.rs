//! The protocol's extensions: the values of the top-level key `ext` in requests and responses.
//!
//! A daemon or client that does not know the key ignores it. A daemon of level 1 answers a request
//! with `ext` by a reply with `ext`. So a reply without it comes from a daemon of level 0, such as
//! the reference.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::reader::{Reader, for_each_entry, read_items};
use crate::wire_enums::{EndpointState, Hold};
use crate::{DecodeError, DecodeErrorKind, EventExt};

/// The level of the extensions that this crate implements.
pub const EXTENSION_LEVEL: u64 = 1;

/// The longest time that a daemon parks a request, in ms.
pub const MAX_WAIT_MS: u64 = 60_000;

/// The extension of a request. An empty one asks for all information that a level 1 reply adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestExt {
    /// REGISTER: the hold that keeps the topic registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// REGISTER and RENEW: the session that holds the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// UNREGISTER: remove the topic only if this node publishes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher_node: Option<String>,
    /// UNREGISTER: remove the topic only if its last change has this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// WATCH: only topics whose name matches this [`TopicFilter`](crate::TopicFilter).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// WATCH: only events after this point; without it, a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// WAIT and WATCH: the longest time to park the request, in ms. At most [`MAX_WAIT_MS`], which is
    /// also the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// WATCH: the greatest number of events in the reply. The daemon may have a lower limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// A point in a daemon's history, up to which a watch has seen all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Since {
    /// The epoch of the history.
    pub epoch: u64,
    /// The revision of the last event that the watch has seen.
    pub revision: u64,
}

/// A session holds topics of one user until its lease ends. Renewing the session extends the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The session's id, unique among the sessions of its user: 1 to 64 bytes.
    pub id: String,
    /// The lease without renewal, in ms; 10,000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// The extension of a response. Each field names the replies that have it; "hello" is the reply to a
/// PING.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResponseExt {
    /// Hello: the level of the extensions that the daemon implements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u64>,
    /// Hello: the daemon's name and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Hello and WATCH: the epoch of the history. It changes when the daemon loses its history and
    /// when the machine boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Hello: the revision of the last change in this epoch. REGISTER: the revision of the topic's
    /// last change. WATCH: the revision up to which this reply covers the history, for
    /// [`since`](RequestExt::since) of the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Hello: the daemon's process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// Hello: the time since the daemon's start, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Hello: the number of topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<u64>,
    /// Hello: true when the daemon knows CANCEL. A daemon of version 0.1.0 does not have the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
    /// LOOKUP: the daemon's own information about the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryExt>,
    /// LIST: the daemon's own information about each topic, in the order of the response's `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<EntryExt>>,
    /// REGISTER in a session and RENEW: the session's lease from now on, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// RENEW: whether the daemon knows the session. If not, the client must register its topics
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<bool>,
    /// CANCEL: the number of parked requests that it has ended. None of them gets a reply. With 0
    /// the request was answered before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<u64>,
    /// WATCH: true when the response's `topics` are a snapshot, which replaces all that the client
    /// knew before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
    /// WATCH: the events in order of their revision. The list is empty when nothing has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<EventExt>>,
    /// STATS: the daemon's counters and gauges by name. Decoding puts each unknown key here whose
    /// value is an unsigned integer.
    #[serde(flatten)]
    pub counts: BTreeMap<String, u64>,
}

/// A daemon's own information about a topic, beside its publisher's [`TopicInfo`](crate::TopicInfo).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryExt {
    /// The user that registered the topic; `None` when the daemon cannot identify the user.
    pub uid: Option<u64>,
    /// The process that registered the topic; `None` when the daemon cannot identify the process.
    pub pid: Option<u64>,
    /// The hold that keeps the topic registered.
    pub hold: Hold,
    /// The revision of the topic's last change.
    pub revision: u64,
    /// The time since that change, in ms.
    pub age_ms: u64,
    /// The state of the topic's endpoint.
    pub endpoint: EndpointState,
    /// Why the daemon cannot judge the endpoint, in its words; only for the state `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_reason: Option<String>,
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
                "cancel" => ext.cancel = reader.read_optional_boolean()?,
                "entry" => ext.entry = EntryExt::read_optional(reader)?,
                "entries" => ext.entries = EntryExt::read_all(reader)?,
                "lease_ms" => ext.lease_ms = reader.read_optional_unsigned()?,
                "known" => ext.known = reader.read_optional_boolean()?,
                "cancelled" => ext.cancelled = reader.read_optional_unsigned()?,
                "snapshot" => ext.snapshot = reader.read_optional_boolean()?,
                "events" => ext.events = EventExt::read_all(reader)?,
                other => match reader.read_unsigned_or_skip()? {
                    Some(count) => drop(ext.counts.insert(other.to_owned(), count)),
                    // The last of duplicate keys counts.
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
        let (mut revision, mut age_ms, mut endpoint_reason) = (None, None, None);
        for_each_entry(reader, |reader, key| {
            match key {
                "uid" => uid = reader.read_optional_unsigned()?,
                "pid" => pid = reader.read_optional_unsigned()?,
                "hold" => hold = reader.read_optional_text()?.map(Hold::from),
                "revision" => revision = reader.read_optional_unsigned()?,
                "age_ms" => age_ms = reader.read_optional_unsigned()?,
                "endpoint" => endpoint = reader.read_optional_text()?.map(EndpointState::from),
                "endpoint_reason" => {
                    endpoint_reason = reader.read_optional_text()?.map(str::to_owned);
                }
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
            endpoint_reason,
        })
    }
}
