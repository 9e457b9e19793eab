//! The SQLite file: its tables; creating, opening and reading it.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use cortex_proto::TopicName;
use rusqlite::config::DbConfig;
use rusqlite::{Connection as SqliteConnection, MAIN_DB, OpenFlags};

use super::load_error::{LoadError, damaged, write_error};
use super::rows::{StoredMeta, read_events, read_meta, read_topics};
use super::schema::{self, PRESENT, Schema};
use crate::edge::files::FileOrigin;
use crate::edge::processes::Host;
use crate::edge::state_file::{APPLICATION_ID, StoreError, failed};
use crate::registry::{Event, EventKind, Record, Snapshot};

/// SQLite truncates its write-ahead log to this size, in bytes, after a checkpoint.
const MAX_IDLE_LOG: i64 = 16 << 20;

/// The content of a state file.
#[derive(Debug)]
pub(super) struct Content {
    /// The topics and their history.
    pub(super) snapshot: Snapshot,
    /// The host on which they were saved.
    pub(super) host: Host,
    /// The file in which they were saved; `None` in files of version 1.
    pub(super) origin: Option<FileOrigin>,
    /// Whether the history has all events from its first one to the revision, and the topics agree
    /// with them.
    pub(super) has_whole_history: bool,
}

fn connect(path: &Path) -> rusqlite::Result<SqliteConnection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = SqliteConnection::open_with_flags(path, flags)?;
    // A daemon that waits for a lock of the file would answer no client.
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Creates the tables in an empty file.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    let filled = connect(path).and_then(|connection| {
        connection.execute_batch(&format!(
            "BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}; \
             {}; COMMIT; PRAGMA journal_mode = WAL",
            PRESENT.version,
            PRESENT.tables.join(";")
        ))?;
        connection.close().map_err(|(_, error)| error)
    });
    filled.map_err(|error| failed("create the state file", path)(write_error(error)))
}

/// How SQLite shares a state file with other programs, such as `sqlite3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Others can read it. SQLite needs space for shared memory.
    Shared,
    /// Others cannot. SQLite needs no further space to open the file.
    Exclusive,
}

/// A state file that was read.
#[derive(Debug)]
pub(super) struct LoadedFile {
    pub(super) connection: SqliteConnection,
    pub(super) schema: &'static Schema,
    pub(super) content: Option<Content>,
}

/// Opens a state file and reads all of it. Changes nothing but settings of the file, and these only
/// after it has read everything.
pub(super) fn load(path: &Path, sharing: Sharing) -> Result<LoadedFile, LoadError> {
    let connection = connect(path)?;
    if sharing == Sharing::Exclusive {
        connection.pragma_update(None, "locking_mode", "exclusive")?;
    }
    // Closing must not wait for the disk, since the next daemon waits for the file's lock. The log
    // stays beside the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    let schema = find_schema(&connection)?;
    // The daemon may write to the file, so the file's header forbids it.
    if connection.is_readonly(MAIN_DB)? {
        return damaged("it is marked as read-only");
    }
    check(&connection, schema)?;
    let content = read(&connection, schema)?;

    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(LoadError::NoWriteAheadLog);
    }
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)?;
    Ok(LoadedFile { connection, schema, content })
}

/// Reads a state file without its additional files. SQLite creates none.
pub(super) fn load_read_only(path: &Path) -> Result<Option<Content>, LoadError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let escaped: Vec<_> =
        path.as_os_str().as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
    let uri = format!("file:{}?immutable=1", escaped.concat());
    let connection = SqliteConnection::open_with_flags(uri, flags)?;
    let schema = find_schema(&connection)?;
    check(&connection, schema)?;
    read(&connection, schema)
}

fn find_schema(connection: &SqliteConnection) -> Result<&'static Schema, LoadError> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match schema::of(version) {
        Some(schema) => Ok(schema),
        None if version > PRESENT.version => Err(LoadError::Newer(version)),
        None => damaged(format!("no version {version} exists")),
    }
}

fn check(connection: &SqliteConnection, schema: &Schema) -> Result<(), LoadError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return damaged(verdict);
    }
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema ORDER BY rowid")?;
    let tables: Vec<Option<String>> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if !tables.iter().map(Option::as_deref).eq(schema.tables.map(Some)) {
        return damaged("its tables are not those of a state file");
    }
    Ok(())
}

pub(super) fn read(
    connection: &SqliteConnection,
    schema: &Schema,
) -> Result<Option<Content>, LoadError> {
    let mut last_name: Option<TopicName> = None;
    let mut records = Vec::new();
    read_topics(connection, schema, |record| {
        // SQLite cannot find a row by its name when the order is wrong.
        if last_name.replace(record.name.clone()).is_some_and(|last| last >= record.name) {
            return damaged("the topics are out of order");
        }
        records.push(record);
        Ok(())
    })?;
    records.sort_by_key(|record| record.order);
    if records.windows(2).any(|pair| pair[0].order == pair[1].order) {
        return damaged("two topics have the same place");
    }
    let meta = read_meta(connection, schema)?;
    let Some(StoredMeta { epoch, revision, host, origin }) = meta else {
        let is_empty = records.is_empty() && read_history(connection, 0)?.is_some();
        return if is_empty { Ok(None) } else { damaged("it has no metadata") };
    };
    let history = read_history(connection, revision)?;
    let history = history.filter(|history| agree(&records, history));
    let has_whole_history = history.is_some();
    let history = history.unwrap_or_default();
    let snapshot = Snapshot { epoch, revision, records, history };
    Ok(Some(Content { snapshot, host, origin, has_whole_history }))
}

/// The history up to a revision. `None` if it has a gap or an unreadable event: then the topics are
/// still of use.
fn read_history(
    connection: &SqliteConnection,
    revision: u64,
) -> Result<Option<Vec<(TopicName, Event)>>, LoadError> {
    let mut history = Vec::new();
    match read_events(connection, |name, event| history.push((name, event))) {
        Ok(()) => {}
        Err(LoadError::Damaged(what)) => {
            tracing::debug!(what, "the stored history is damaged");
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    history.sort_by_key(|(_, event)| event.revision);
    let expected = (0..=revision).rev().take(history.len());
    let is_whole = history.iter().rev().map(|(_, event)| event.revision).eq(expected);
    Ok(is_whole.then_some(history))
}

/// Whether the topics are there that were registered last, and those are not that were removed last.
/// They do not agree where SQLite has replayed its log into an older copy of the file.
fn agree(records: &[Record], history: &[(TopicName, Event)]) -> bool {
    let names: HashSet<_> = records.iter().map(|record| &record.name).collect();
    let last_events: HashMap<_, _> =
        history.iter().map(|(name, event)| (name, event.kind)).collect();
    last_events.into_iter().all(|(name, kind)| {
        let is_registered = matches!(kind, EventKind::Registered | EventKind::Updated);
        names.contains(name) == is_registered
    })
}
