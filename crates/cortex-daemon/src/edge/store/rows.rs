//! The rows of the tables: topics, events and metadata, each with a checksum.

use cortex_proto::{TopicInfo, TopicName};
use rusqlite::types::{FromSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection as SqliteConnection, Row, params_from_iter};

use super::load_error::{LoadError, damaged};
use crate::edge::fnv::Fnv1a;
use crate::edge::processes::Host;
use crate::peer::Process;
use crate::registry::{Event, EventKind, EvictionReason, Hold, Record, Write};

const READ_META: &str = "SELECT id, epoch, revision, boot_id, pid_namespace, checksum FROM meta";
const READ_TOPICS: &str = "SELECT name, place, info, revision, changed_ms, uid, pid, start_time, \
     hold, session_id, lease_ms, found_alive, checksum FROM topics";
const READ_EVENTS: &str = "SELECT revision, kind, reason, topic_name, info, checksum FROM events";

const REPLACE_META: &str =
    "REPLACE INTO meta (id, epoch, revision, boot_id, pid_namespace, checksum)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const REPLACE_TOPIC: &str =
    "REPLACE INTO topics (name, place, info, revision, changed_ms, uid, pid, start_time, \
     hold, session_id, lease_ms, found_alive, checksum)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
const DELETE_TOPIC: &str = "DELETE FROM topics WHERE name = ?1";
const INSERT_EVENT: &str = "INSERT INTO events (revision, kind, reason, topic_name, info, checksum)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) host: Host,
}

/// Reads the topics, in the order of their names.
pub(super) fn read_topics(
    connection: &SqliteConnection,
    mut take: impl FnMut(Record) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    for_each_row(connection, READ_TOPICS, |row| take(parse_topic(row)?))
}

/// Reads the events, in any order.
pub(super) fn read_events(
    connection: &SqliteConnection,
    mut take: impl FnMut(TopicName, Event),
) -> Result<(), LoadError> {
    for_each_row(connection, READ_EVENTS, |row| {
        let (name, event) = parse_event(row)?;
        take(name, event);
        Ok(())
    })
}

pub(super) fn read_meta(connection: &SqliteConnection) -> Result<Option<Meta>, LoadError> {
    let mut meta = None;
    for_each_row(connection, READ_META, |row| match meta.replace(parse_meta(row)?) {
        None => Ok(()),
        Some(_) => damaged("it has two rows of metadata"),
    })?;
    Ok(meta)
}

/// Calls `take` for each row after checking its checksum, which is in the last column.
fn for_each_row(
    connection: &SqliteConnection,
    query: &str,
    mut take: impl FnMut(&Row<'_>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut statement = connection.prepare(query)?;
    let last = statement.column_count().saturating_sub(1);
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut sum = Checksum::default();
        for column in 0..last {
            sum.add(row.get_ref(column)?);
        }
        if row.get::<_, i64>(last)? != sum.finish() {
            return damaged("the checksum of a row is wrong");
        }
        take(row)?;
    }
    Ok(())
}

fn parse_meta(row: &Row<'_>) -> Result<Meta, LoadError> {
    Ok(Meta {
        epoch: unsigned(row, "epoch")?,
        revision: unsigned(row, "revision")?,
        host: Host {
            boot_id: optional(row, "boot_id")?,
            pid_namespace: optional(row, "pid_namespace")?.map(i64::cast_unsigned),
        },
    })
}

fn parse_topic(row: &Row<'_>) -> Result<Record, LoadError> {
    let name = topic_name(row, "name")?;
    let lease_ms = optional(row, "lease_ms")?.map(i64::cast_unsigned);
    let hold = match (text(row, "hold")?, optional(row, "session_id")?, lease_ms) {
        ("process", None, None) => Hold::Process,
        ("session", Some(id), Some(lease_ms)) => Hold::Session { id, lease_ms },
        ("static", None, None) => Hold::Static,
        (hold, ..) => return damaged(format!("no topic has the hold {hold}")),
    };
    let start_time = optional(row, "start_time")?.map(i64::cast_unsigned);
    let process = match (optional(row, "pid")?, start_time) {
        (None, None) => None,
        (Some(pid), Some(start_time)) => Some(Process { pid, start_time }),
        _ => return damaged("a topic has only a pid or only a start time"),
    };
    Ok(Record {
        order: unsigned(row, "place")?,
        packed: info(row, &name)?.into(),
        revision: unsigned(row, "revision")?,
        changed_ms: unsigned(row, "changed_ms")?,
        uid: optional(row, "uid")?,
        process,
        is_local: true,
        listener: None,
        hold,
        found_alive: row.get("found_alive")?,
        name,
    })
}

fn parse_event(row: &Row<'_>) -> Result<(TopicName, Event), LoadError> {
    const KINDS: [EventKind; 6] = [
        EventKind::Registered,
        EventKind::Updated,
        EventKind::Unregistered,
        EventKind::Evicted(EvictionReason::OwnerExited),
        EventKind::Evicted(EvictionReason::LeaseExpired),
        EventKind::Evicted(EvictionReason::EndpointDead),
    ];
    let name = topic_name(row, "topic_name")?;
    let (word, reason) = (text(row, "kind")?, optional::<String>(row, "reason")?);
    let is_match = |kind: &EventKind| kind.word() == word && kind.reason() == reason.as_deref();
    let Some(kind) = KINDS.into_iter().find(is_match) else {
        return damaged(format!("no event {word} has the reason {reason:?}"));
    };
    let packed = info(row, &name)?.into();
    Ok((name, Event { revision: unsigned(row, "revision")?, kind, packed }))
}

fn topic_name(row: &Row<'_>, column: &str) -> Result<TopicName, LoadError> {
    TopicName::new(text(row, column)?).or_else(|error| damaged(error.to_string()))
}

/// A packed topic info, after checking that it is valid and has this name.
fn info<'row>(row: &'row Row<'_>, name: &TopicName) -> Result<&'row [u8], LoadError> {
    let packed = row.get_ref("info")?.as_blob().or_else(|error| damaged(error.to_string()))?;
    match TopicInfo::from_bytes(packed) {
        Ok(info) if info.name == *name => Ok(packed),
        Ok(info) => damaged(format!("the topic {name} is stored as {}", info.name)),
        Err(error) => damaged(error.to_string()),
    }
}

fn text<'row>(row: &'row Row<'_>, column: &str) -> Result<&'row str, LoadError> {
    row.get_ref(column)?.as_str().or_else(|error| damaged(error.to_string()))
}

fn optional<T: FromSql>(row: &Row<'_>, column: &str) -> Result<Option<T>, LoadError> {
    Ok(row.get(column)?)
}

fn unsigned(row: &Row<'_>, column: &str) -> Result<u64, LoadError> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

pub(super) fn put_write(connection: &SqliteConnection, write: &Write) -> rusqlite::Result<()> {
    match &write.record {
        Some(record) => put_topic(connection, record)?,
        None => {
            connection.prepare_cached(DELETE_TOPIC)?.execute([write.name.as_str()])?;
        }
    }
    let Some(event) = &write.event else { return Ok(()) };
    let values = [
        integer_value(event.revision),
        text_value(event.kind.word()),
        optional_value(event.kind.reason(), text_value),
        text_value(write.name.as_str()),
        ValueRef::Blob(&event.packed),
    ];
    put(connection, INSERT_EVENT, &values)
}

pub(super) fn put_topic(connection: &SqliteConnection, record: &Record) -> rusqlite::Result<()> {
    let (hold, session, lease_ms) = match &record.hold {
        Hold::Process => ("process", None, None),
        Hold::Session { id, lease_ms } => ("session", Some(id.as_str()), Some(*lease_ms)),
        Hold::Static => ("static", None, None),
    };
    let values = [
        text_value(record.name.as_str()),
        integer_value(record.order),
        ValueRef::Blob(&record.packed),
        integer_value(record.revision),
        integer_value(record.changed_ms),
        optional_value(record.uid, integer_value),
        optional_value(record.process.map(|process| process.pid), integer_value),
        optional_value(record.process.map(|process| process.start_time), integer_value),
        text_value(hold),
        optional_value(session, text_value),
        optional_value(lease_ms, integer_value),
        integer_value(u32::from(record.found_alive)),
    ];
    put(connection, REPLACE_TOPIC, &values)
}

pub(super) fn put_meta(connection: &SqliteConnection, meta: &Meta) -> rusqlite::Result<()> {
    let values = [
        integer_value(0_u32),
        integer_value(meta.epoch),
        integer_value(meta.revision),
        optional_value(meta.host.boot_id.as_deref(), text_value),
        optional_value(meta.host.pid_namespace, integer_value),
    ];
    put(connection, REPLACE_META, &values)
}

/// Runs a statement on the values and their checksum.
fn put(connection: &SqliteConnection, sql: &str, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    let mut sum = Checksum::default();
    for value in values {
        sum.add(*value);
    }
    let sum = ValueRef::Integer(sum.finish());
    let values = values.iter().copied().chain([sum]).map(ToSqlOutput::Borrowed);
    connection.prepare_cached(sql)?.execute(params_from_iter(values))?;
    Ok(())
}

fn integer_value(value: impl Into<u64>) -> ValueRef<'static> {
    ValueRef::Integer(value.into().cast_signed())
}

fn text_value(value: &str) -> ValueRef<'_> {
    ValueRef::Text(value.as_bytes())
}

fn optional_value<'v, T>(value: Option<T>, some: impl FnOnce(T) -> ValueRef<'v>) -> ValueRef<'v> {
    value.map_or(ValueRef::Null, some)
}

/// The hash of a row's values: for each value its kind, its length and its bytes.
#[derive(Default)]
struct Checksum(Fnv1a);

impl Checksum {
    fn add(&mut self, value: ValueRef<'_>) {
        let (kind, bytes): (u8, &[u8]) = match value {
            ValueRef::Null => (0, &[]),
            ValueRef::Integer(number) => (1, &number.to_le_bytes()),
            ValueRef::Real(number) => (2, &number.to_le_bytes()),
            ValueRef::Text(text) => (3, text),
            ValueRef::Blob(blob) => (4, blob),
        };
        self.0.write(&[kind]);
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
    }

    fn finish(&self) -> i64 {
        self.0.finish().cast_signed()
    }
}
