//! What outlives the daemon: its topics and their history, in a SQLite file.
//!
//! A commit survives a killed process; after a power cut the file holds an earlier commit, whole.
//! Numbers that are unsigned elsewhere are stored by their bits, since SQLite's are signed.
//!
//! Nothing is taken from a file that is not exactly what was written: SQLite checks its pages, and
//! each row carries a checksum, since SQLite has none for what is on them. Who edits the file by
//! hand damages it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cortex_proto::TopicName;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, TransactionBehavior};

use super::processes::Host;
use super::state_file::{APPLICATION_ID, Content, StateFile, StoreError, failed, resolve};
use crate::registry::{Snapshot, Write};
use rows::{put_meta, put_topic, put_write, read_events, read_meta, read_topics};

mod rows;
#[cfg(test)]
mod tests;

/// How many events the history keeps.
pub(crate) const HISTORY: u64 = 65_536;

/// The version of what follows. A file of this version loads for ever: `tests/state/v1.db`.
const VERSION: i32 = 1;

/// The tables, and nothing else: a file with other ones is damaged.
const TABLES: [&str; 3] = [
    "CREATE TABLE meta (
        id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        boot_id TEXT,
        pid_namespace INTEGER,
        checksum INTEGER NOT NULL
    ) STRICT",
    // One tree, found by name: an index of its own could disagree with its table.
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

const FORGET_EVENTS: &str = "DELETE FROM events WHERE revision BETWEEN ?1 AND ?2";

/// The bytes of a write-ahead log that are kept for the next changes rather than cut: 16 MiB.
const LOG_KEPT: i64 = 16 << 20;

/// What a file held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The topics and their history.
    pub(crate) snapshot: Snapshot,
    /// The host that they were written on.
    pub(crate) host: Host,
}

/// Keeps topics and their history, in a file or nowhere.
///
/// After an error memory and file are as they were before the call, and later calls work as soon
/// as the file does.
#[derive(Debug)]
pub(crate) struct Store(Place);

#[derive(Debug)]
enum Place {
    /// Nothing is kept.
    Nowhere,
    File(Box<Open>),
    /// The file was given up: nothing can be kept until another one is opened.
    Lost(PathBuf),
}

#[derive(Debug)]
struct Open {
    // Above the file: SQLite ends before its lock does.
    connection: Connection,
    file: StateFile,
    meta: Meta,
}

#[derive(Clone, Debug, Default)]
struct Meta {
    epoch: u64,
    revision: u64,
    host: Host,
}

impl Store {
    /// Opens the file, which is made if it is not there, and reads it.
    ///
    /// `None` means that it holds nothing yet: it is new, or the one that was there is damaged and
    /// now has another name. [`reset`](Self::reset) comes before anything else is saved.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Loaded>), StoreError> {
        let path = resolve(path)?;
        let mut made_way = false;
        loop {
            let file = StateFile::lock(&path)?;
            match file.content()? {
                Content::Nothing => file.replace(create)?,
                Content::Other => {
                    return Err(StoreError::Foreign { path, what: "is not one of this daemon" });
                }
                Content::State => match load(&path) {
                    Ok((connection, loaded)) => {
                        let open = Open::new(connection, file, loaded.as_ref())?;
                        return Ok((Self(Place::File(Box::new(open))), loaded));
                    }
                    Err(Fault::Damaged(what)) if made_way => {
                        let refused = failed("make a sound state file at", &path);
                        return Err(refused(io::Error::other(what)));
                    }
                    Err(Fault::Damaged(what)) => {
                        let aside = file.set_aside()?;
                        made_way = true;
                        tracing::warn!(
                            path = %path.display(),
                            aside = %aside.display(),
                            what,
                            "the state file is damaged: it was set aside, and the daemon starts \
                             without topics"
                        );
                    }
                    Err(Fault::Newer(version)) => {
                        return Err(StoreError::Newer { path, version, known: VERSION });
                    }
                    Err(Fault::NoLog) => {
                        let what = "is where SQLite cannot keep a write-ahead log";
                        return Err(StoreError::Foreign { path, what });
                    }
                    Err(Fault::Refused(error)) => {
                        return Err(failed("open the state file", &path)(io::Error::other(error)));
                    }
                },
            }
        }
    }

    /// A store that keeps nothing and never fails.
    pub(crate) fn none() -> Self {
        Self(Place::Nowhere)
    }

    /// Lets go of a file that is lost, so that it can be opened anew: until then nothing can be
    /// saved.
    pub(crate) fn give_up(&mut self) {
        if let Place::File(open) = &self.0 {
            self.0 = Place::Lost(open.file.path().to_owned());
        }
    }

    /// The file to keep something in, unless nothing is to be kept.
    fn file(&mut self) -> Result<Option<&mut Open>, StoreError> {
        match &mut self.0 {
            Place::Nowhere => Ok(None),
            Place::File(open) => Ok(Some(open)),
            Place::Lost(path) => Err(StoreError::Lost(path.clone())),
        }
    }

    /// Starts another epoch: all that was kept makes way for the snapshot's topics, and the history
    /// is empty.
    pub(crate) fn reset(&mut self, snapshot: &Snapshot, host: &Host) -> Result<(), StoreError> {
        let Some(open) = self.file()? else { return Ok(()) };
        let Snapshot { epoch, revision, ref records, .. } = *snapshot;
        let meta = Meta { epoch, revision, host: host.clone() };
        open.commit(meta, |connection| {
            connection.execute_batch("DELETE FROM topics; DELETE FROM events")?;
            records.iter().try_for_each(|record| put_topic(connection, record))
        })
    }

    /// Saves changes, all or none of them. The revision becomes the last event's.
    pub(crate) fn save(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let Some(open) = self.file()? else { return Ok(()) };
        open.save(open.meta.clone(), writes)
    }

    /// Saves, together, which host the daemon is on now and what that changes for its topics.
    pub(crate) fn move_to(&mut self, host: &Host, writes: &[Write]) -> Result<(), StoreError> {
        let Some(open) = self.file()? else { return Ok(()) };
        open.save(Meta { host: host.clone(), ..open.meta }, writes)
    }

    /// Whether the file was deleted or replaced under us. From then on nothing can be saved.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.0 {
            Place::Nowhere => false,
            Place::File(open) => open.file.is_lost(),
            Place::Lost(_) => true,
        }
    }
}

impl Open {
    fn new(
        connection: Connection,
        file: StateFile,
        loaded: Option<&Loaded>,
    ) -> Result<Self, StoreError> {
        let meta = loaded.map_or_else(Meta::default, |loaded| Meta {
            epoch: loaded.snapshot.epoch,
            revision: loaded.snapshot.revision,
            host: loaded.host.clone(),
        });
        let mut open = Self { connection, file, meta };
        open.file.note_sidecars()?;
        // SQLite opens by name: what it has is what we have locked.
        open.still_there()?;
        Ok(open)
    }

    fn still_there(&self) -> Result<(), StoreError> {
        if self.file.is_lost() {
            return Err(StoreError::Lost(self.file.path().to_owned()));
        }
        Ok(())
    }

    fn save(&mut self, mut meta: Meta, writes: &[Write]) -> Result<(), StoreError> {
        let revision = |write: &Write| Some(write.event.as_ref()?.revision);
        let first = writes.iter().find_map(revision);
        let last = writes.iter().rev().find_map(revision);
        meta.revision = last.unwrap_or(meta.revision);
        self.commit(meta, |connection| {
            writes.iter().try_for_each(|write| put_write(connection, write))?;
            let Some((first, last)) = first.zip(last.and_then(|last| last.checked_sub(HISTORY)))
            else {
                return Ok(());
            };
            // What is behind `first` went when that was the newest.
            let range = [first.saturating_sub(HISTORY), last].map(u64::cast_signed);
            connection.prepare_cached(FORGET_EVENTS)?.execute(range)?;
            Ok(())
        })
    }

    fn commit(
        &mut self,
        meta: Meta,
        fill: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        // SQLite would go on with the deleted file, and what it keeps there is lost at the end.
        self.still_there()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let committed = transaction.and_then(|transaction| {
            fill(&transaction)?;
            put_meta(&transaction, &meta)?;
            transaction.commit()
        });
        let refused = failed("save to the state file", self.file.path());
        committed.map_err(|error| refused(io::Error::other(error)))?;
        self.meta = meta;
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // At its end SQLite removes the log by name, and there it may be another daemon's by now.
        if self.file.is_lost() {
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

/// Why a state file's content cannot be had.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it is of version {0}")]
    Newer(i32),
    /// The file system has no memory that processes can share.
    #[error("it cannot have a write-ahead log")]
    NoLog,
    #[error(transparent)]
    Refused(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    /// The file is one of ours, so that what SQLite cannot make sense of is damage. What is not
    /// the file's fault, or may pass, is none.
    fn from(error: rusqlite::Error) -> Self {
        let elsewhere = error.sqlite_error_code().is_some_and(|code| {
            matches!(
                code,
                ErrorCode::PermissionDenied
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OutOfMemory
                    | ErrorCode::ReadOnly
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DiskFull
                    | ErrorCode::CannotOpen
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::NoLargeFileSupport
            )
        });
        if elsewhere { Self::Refused(error) } else { Self::Damaged(error.to_string()) }
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(what.into()))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // A daemon that waits for a file answers nobody.
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Fills a new, empty file.
fn create(path: &Path) -> Result<(), StoreError> {
    let filled = connect(path).and_then(|connection| {
        connection.execute_batch(&format!(
            "BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; \
             {}; COMMIT; PRAGMA journal_mode = WAL",
            TABLES.join(";")
        ))?;
        connection.close().map_err(|(_, error)| error)
    });
    filled.map_err(|error| failed("create the state file", path)(io::Error::other(error)))
}

/// Opens a file of ours and reads all of it. Until that has worked, the file stays as it is.
fn load(path: &Path) -> Result<(Connection, Option<Loaded>), Fault> {
    let connection = connect(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // A later version adds its migration here.
    match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
        VERSION => {}
        newer if newer > VERSION => return Err(Fault::Newer(newer)),
        version => return damaged(format!("there is no version {version}")),
    }
    // We may write, so that it is the header that forbids it.
    if connection.is_readonly(MAIN_DB)? {
        return damaged("it cannot be written");
    }
    check(&connection)?;
    let loaded = read(&connection)?;

    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::NoLog);
    }
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok((connection, loaded))
}

fn check(connection: &Connection) -> Result<(), Fault> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return damaged(verdict);
    }
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema ORDER BY rowid")?;
    let tables: Vec<Option<String>> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if !tables.iter().map(Option::as_deref).eq(TABLES.map(Some)) {
        return damaged("its tables are not ours");
    }
    Ok(())
}

fn read(connection: &Connection) -> Result<Option<Loaded>, Fault> {
    let mut last_name: Option<TopicName> = None;
    let mut records = Vec::new();
    read_topics(connection, |record| {
        // Out of order, a row is not found by its name.
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
            Ok(Some(Loaded { snapshot: Snapshot { epoch, revision, records, history }, host }))
        }
        _ => damaged("its parts do not belong together"),
    }
}
