//! The SQLite file: its tables; creating, opening and reading it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use cortex_proto::TopicName;
use rusqlite::config::DbConfig;
use rusqlite::{Connection as SqliteConnection, MAIN_DB, OpenFlags};

use super::load_error::{LoadError, damaged, write_error};
use super::rows::{Meta, read_events, read_meta, read_topics};
use crate::edge::processes::Host;
use crate::edge::state_file::{APPLICATION_ID, StoreError, failed};
use crate::registry::Snapshot;

/// The version of these tables. Every later daemon must load a file of this version:
/// `tests/state/v1.db`.
pub(super) const VERSION: i32 = 1;

/// The tables. A file with any others is damaged.
const TABLES: [&str; 3] = [
    "CREATE TABLE meta (
        id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        boot_id TEXT,
        pid_namespace INTEGER,
        checksum INTEGER NOT NULL
    ) STRICT",
    // Without a rowid, so that the table needs no index, which could contradict it.
    "CREATE TABLE topics (
        name TEXT PRIMARY KEY,
        place INTEGER NOT NULL,
        info BLOB NOT NULL,
        revision INTEGER NOT NULL,
        changed_ms INTEGER NOT NULL,
        uid INTEGER,
        pid INTEGER,
        start_time INTEGER,
        hold TEXT NOT NULL,
        session_id TEXT,
        lease_ms INTEGER,
        found_alive INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID",
    "CREATE TABLE events (
        revision INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        reason TEXT,
        topic_name TEXT NOT NULL,
        info BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT",
];

/// SQLite truncates its write-ahead log to this size, in bytes, after a checkpoint.
const MAX_IDLE_LOG: i64 = 16 << 20;

/// The content of a state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadedState {
    /// The topics and their history.
    pub(crate) snapshot: Snapshot,
    /// The host on which they were saved.
    pub(crate) host: Host,
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
            "BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; \
             {}; COMMIT; PRAGMA journal_mode = WAL",
            TABLES.join(";")
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

/// Opens a state file and reads all of it. Changes the file only after it has read everything.
pub(super) fn load(
    path: &Path,
    sharing: Sharing,
) -> Result<(SqliteConnection, Option<LoadedState>), LoadError> {
    let connection = connect(path)?;
    if sharing == Sharing::Exclusive {
        connection.pragma_update(None, "locking_mode", "exclusive")?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    check_version(&connection)?;
    // The daemon may write to the file, so the file's header forbids it.
    if connection.is_readonly(MAIN_DB)? {
        return damaged("it is marked as read-only");
    }
    check(&connection)?;
    let loaded = read(&connection)?;

    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(LoadError::NoWriteAheadLog);
    }
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok((connection, loaded))
}

/// Reads a state file without its additional files. SQLite creates none.
pub(super) fn load_read_only(path: &Path) -> Result<Option<LoadedState>, LoadError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let escaped: Vec<_> =
        path.as_os_str().as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
    let uri = format!("file:{}?immutable=1", escaped.concat());
    let connection = SqliteConnection::open_with_flags(uri, flags)?;
    check_version(&connection)?;
    check(&connection)?;
    read(&connection)
}

fn check_version(connection: &SqliteConnection) -> Result<(), LoadError> {
    // A newer version of the daemon adds its migration here.
    match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
        VERSION => Ok(()),
        newer if newer > VERSION => Err(LoadError::Newer(newer)),
        version => damaged(format!("no version {version} exists")),
    }
}

fn check(connection: &SqliteConnection) -> Result<(), LoadError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return damaged(verdict);
    }
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema ORDER BY rowid")?;
    let tables: Vec<Option<String>> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if !tables.iter().map(Option::as_deref).eq(TABLES.map(Some)) {
        return damaged("its tables are not those of a state file");
    }
    Ok(())
}

pub(super) fn read(connection: &SqliteConnection) -> Result<Option<LoadedState>, LoadError> {
    let mut last_name: Option<TopicName> = None;
    let mut records = Vec::new();
    read_topics(connection, |record| {
        // SQLite cannot find a row by its name when the order is wrong.
        if last_name.replace(record.name.clone()).is_some_and(|last| last >= record.name) {
            return damaged("the topics are out of order");
        }
        records.push(record);
        Ok(())
    })?;
    records.sort_by_key(|record| record.order);
    let mut history = Vec::new();
    read_events(connection, |name, event| history.push((name, event)))?;
    history.sort_by_key(|(_, event)| event.revision);
    let last_event = history.last().map(|(_, event)| event.revision);

    match read_meta(connection)? {
        None if records.is_empty() && last_event.is_none() => Ok(None),
        Some(Meta { epoch, revision, host }) if last_event.is_none_or(|last| last == revision) => {
            Ok(Some(LoadedState { snapshot: Snapshot { epoch, revision, records, history }, host }))
        }
        _ => damaged("its parts contradict each other"),
    }
}
