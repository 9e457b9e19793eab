//! The rows of the tables: topics, events and metadata.

use cortex_proto::{TopicInfo, TopicName};
use rusqlite::types::{FromSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection as SqliteConnection, Row, params_from_iter};

use super::load_error::{LoadError, damaged};
use super::schema::Schema;
use crate::edge::files::FileOrigin;
use crate::edge::processes::Host;
use crate::peer::{EndpointListener, Process};
use crate::registry::{Event, EventKind, EvictionReason, Hold, Record, Write};

const READ_EVENTS: &str = "SELECT revision, kind, reason, topic_name, info FROM events";

const REPLACE_META: &str =
    "REPLACE INTO meta (id, epoch, revision, boot_id, pid_namespace, device, inode, born_ns)
     VALUES (0, ?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const REPLACE_TOPIC: &str =
    "REPLACE INTO topics (name, place, info, revision, changed_ms, uid, pid, start_time, \
     is_local, listener_pid, listener_start_time, listener_inode, hold, session_id, lease_ms, \
     found_alive)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
const DELETE_TOPIC: &str = "DELETE FROM topics WHERE name = ?1";
const INSERT_EVENT: &str = "INSERT INTO events (revision, kind, reason, topic_name, info)
     VALUES (?1, ?2, ?3, ?4, ?5)";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) host: Host,
    /// The file that holds this row. A copy of the file has another origin.
    pub(super) origin: FileOrigin,
}

/// The metadata as it is stored.
#[derive(Debug)]
pub(super) struct StoredMeta {
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) host: Host,
    /// `None` in files of version 1.
    pub(super) origin: Option<FileOrigin>,
}

/// Reads the topics, in the order of their names.
pub(super) fn read_topics(
    connection: &SqliteConnection,
    schema: &Schema,
    mut take: impl FnMut(Record) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    for_each_row(connection, schema.read_topics, |row| take(parse_topic(row)?))
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

pub(super) fn read_meta(
    connection: &SqliteConnection,
    schema: &Schema,
) -> Result<Option<StoredMeta>, LoadError> {
    let mut meta = None;
    for_each_row(connection, schema.read_meta, |row| match meta.replace(parse_meta(row)?) {
        None => Ok(()),
        Some(_) => damaged("it has two rows of metadata"),
    })?;
    Ok(meta)
}

fn for_each_row(
    connection: &SqliteConnection,
    query: &str,
    mut take: impl FnMut(&Row<'_>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn parse_meta(row: &Row<'_>) -> Result<StoredMeta, LoadError> {
    // Another row would stay beside that of the next commit.
    if row.get::<_, i64>("id")? != 0 {
        return damaged("the metadata has another id");
    }
    let device = optional_unsigned(row, "device")?;
    let inode = optional_unsigned(row, "inode")?;
    let born_ns = optional_unsigned(row, "born_ns")?;
    let origin = device.zip(inode).zip(born_ns);
    Ok(StoredMeta {
        epoch: unsigned(row, "epoch")?,
        revision: unsigned(row, "revision")?,
        host: Host {
            boot_id: optional(row, "boot_id")?,
            pid_namespace: optional_unsigned(row, "pid_namespace")?,
        },
        origin: origin.map(|((device, inode), born_ns)| FileOrigin { device, inode, born_ns }),
    })
}

fn parse_topic(row: &Row<'_>) -> Result<Record, LoadError> {
    let name = topic_name(row, "name")?;
    let lease_ms = optional_unsigned(row, "lease_ms")?;
    let hold = match (text(row, "hold")?, optional(row, "session_id")?, lease_ms) {
        ("process", None, None) => Hold::Process,
        ("session", Some(id), Some(lease_ms)) => Hold::Session { id, lease_ms },
        ("static", None, None) => Hold::Static,
        (hold, ..) => return damaged(format!("no topic has the hold {hold}")),
    };
    let listening_process = process(row, "listener_pid", "listener_start_time")?;
    let listener = match (listening_process, optional_unsigned(row, "listener_inode")?) {
        (None, None) => None,
        (Some(process), None) => Some(EndpointListener::Process(process)),
        (None, Some(inode)) => Some(EndpointListener::Socket(inode)),
        _ => return damaged("a topic has two kinds of listeners"),
    };
    Ok(Record {
        order: unsigned(row, "place")?,
        packed: info(row, &name)?.into(),
        revision: unsigned(row, "revision")?,
        changed_ms: unsigned(row, "changed_ms")?,
        uid: optional(row, "uid")?,
        process: process(row, "pid", "start_time")?,
        is_local: row.get("is_local")?,
        listener,
        hold,
        found_alive: row.get("found_alive")?,
        name,
    })
}

fn process(row: &Row<'_>, pid: &str, start_time: &str) -> Result<Option<Process>, LoadError> {
    match (optional(row, pid)?, optional_unsigned(row, start_time)?) {
        (None, None) => Ok(None),
        (Some(pid), Some(start_time)) => Ok(Some(Process { pid, start_time })),
        _ => damaged("a topic has only a pid or only a start time of a process"),
    }
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

fn optional_unsigned(row: &Row<'_>, column: &str) -> Result<Option<u64>, LoadError> {
    Ok(optional(row, column)?.map(i64::cast_unsigned))
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
    let (listening_process, listener_inode) = match record.listener {
        None => (None, None),
        Some(EndpointListener::Process(process)) => (Some(process), None),
        Some(EndpointListener::Socket(inode)) => (None, Some(inode)),
    };
    let [pid, start_time] = process_values(record.process);
    let [listener_pid, listener_start_time] = process_values(listening_process);
    let values = [
        text_value(record.name.as_str()),
        integer_value(record.order),
        ValueRef::Blob(&record.packed),
        integer_value(record.revision),
        integer_value(record.changed_ms),
        optional_value(record.uid, integer_value),
        pid,
        start_time,
        integer_value(u32::from(record.is_local)),
        listener_pid,
        listener_start_time,
        optional_value(listener_inode, integer_value),
        text_value(hold),
        optional_value(session, text_value),
        optional_value(lease_ms, integer_value),
        integer_value(u32::from(record.found_alive)),
    ];
    put(connection, REPLACE_TOPIC, &values)
}

pub(super) fn put_meta(connection: &SqliteConnection, meta: &Meta) -> rusqlite::Result<()> {
    let [device, inode, born_ns] = origin_values(meta.origin);
    let values = [
        integer_value(meta.epoch),
        integer_value(meta.revision),
        optional_value(meta.host.boot_id.as_deref(), text_value),
        optional_value(meta.host.pid_namespace, integer_value),
        ValueRef::Integer(device),
        ValueRef::Integer(inode),
        ValueRef::Integer(born_ns),
    ];
    put(connection, REPLACE_META, &values)
}

pub(super) fn origin_values(origin: FileOrigin) -> [i64; 3] {
    let FileOrigin { device, inode, born_ns } = origin;
    [device, inode, born_ns].map(u64::cast_signed)
}

fn process_values(process: Option<Process>) -> [ValueRef<'static>; 2] {
    process.map_or([ValueRef::Null; 2], |Process { pid, start_time }| {
        [integer_value(pid), integer_value(start_time)]
    })
}

/// Runs a statement with these values.
fn put(connection: &SqliteConnection, sql: &str, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    let values = values.iter().copied().map(ToSqlOutput::Borrowed);
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
