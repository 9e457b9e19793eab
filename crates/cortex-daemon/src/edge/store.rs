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

use rusqlite::config::DbConfig;
use rusqlite::{Connection as SqliteConnection, TransactionBehavior};

use super::processes::Host;
use super::state_file::{FileContent, StateFile, StoreError, failed, resolve};
use crate::registry::{Snapshot, Write};
pub(crate) use database::LoadedState;
use database::{VERSION, create, load};
use load_error::LoadError;
use rows::{Meta, put_meta, put_topic, put_write};

mod database;
mod load_error;
mod rows;
#[cfg(test)]
mod tests;

/// How many events the history keeps.
pub(crate) const MAX_HISTORY_EVENTS: u64 = 65_536;

const DELETE_OLD_EVENTS: &str = "DELETE FROM events WHERE revision BETWEEN ?1 AND ?2";

/// Keeps topics and their history, in a file or nowhere.
///
/// After an error memory and file are as they were before the call, and later calls work as soon
/// as the file does.
#[derive(Debug)]
pub(crate) struct Store(Backend);

#[derive(Debug)]
enum Backend {
    /// Nothing is kept.
    None,
    File(Box<OpenStateFile>),
    /// The file was given up: nothing can be kept until another one is opened.
    Lost(PathBuf),
}

#[derive(Debug)]
struct OpenStateFile {
    // Above the file: SQLite ends before its lock does.
    connection: SqliteConnection,
    file: StateFile,
    meta: Meta,
}

impl Store {
    /// Opens the file, which is made if it is not there, and reads it.
    ///
    /// `None` means that it holds nothing yet: it is new, or the one that was there is damaged and
    /// now has another name. [`reset`](Self::reset) comes before anything else is saved.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<LoadedState>), StoreError> {
        let path = resolve(path)?;
        let mut was_set_aside = false;
        loop {
            let file = StateFile::lock(&path)?;
            match file.content()? {
                FileContent::Empty => file.replace(create)?,
                FileContent::Foreign => {
                    return Err(StoreError::Foreign { path, what: "is not one of this daemon" });
                }
                FileContent::StateFile => match load(&path) {
                    Ok((connection, loaded)) => {
                        let open = OpenStateFile::new(connection, file, loaded.as_ref())?;
                        return Ok((Self(Backend::File(Box::new(open))), loaded));
                    }
                    Err(LoadError::Damaged(what)) if was_set_aside => {
                        let refused = failed("make a sound state file at", &path);
                        return Err(refused(io::Error::other(what)));
                    }
                    Err(LoadError::Damaged(what)) => {
                        let aside = file.set_aside()?;
                        was_set_aside = true;
                        tracing::warn!(
                            path = %path.display(),
                            aside = %aside.display(),
                            what,
                            "the state file is damaged: it was set aside, and the daemon starts \
                             without topics"
                        );
                    }
                    Err(LoadError::Newer(version)) => {
                        return Err(StoreError::Newer { path, version, known: VERSION });
                    }
                    Err(LoadError::NoWriteAheadLog) => {
                        let what = "is where SQLite cannot keep a write-ahead log";
                        return Err(StoreError::Foreign { path, what });
                    }
                    Err(LoadError::Sqlite(error)) => {
                        return Err(failed("open the state file", &path)(io::Error::other(error)));
                    }
                },
            }
        }
    }

    /// A store that keeps nothing and never fails.
    pub(crate) fn none() -> Self {
        Self(Backend::None)
    }

    /// Lets go of a file that is lost, so that it can be opened anew: until then nothing can be
    /// saved.
    pub(crate) fn mark_lost(&mut self) {
        if let Backend::File(open) = &self.0 {
            self.0 = Backend::Lost(open.file.path().to_owned());
        }
    }

    /// The file to keep something in, unless nothing is to be kept.
    fn file(&mut self) -> Result<Option<&mut OpenStateFile>, StoreError> {
        match &mut self.0 {
            Backend::None => Ok(None),
            Backend::File(open) => Ok(Some(open)),
            Backend::Lost(path) => Err(StoreError::Lost(path.clone())),
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
    pub(crate) fn save_host(&mut self, host: &Host, writes: &[Write]) -> Result<(), StoreError> {
        let Some(open) = self.file()? else { return Ok(()) };
        open.save(Meta { host: host.clone(), ..open.meta }, writes)
    }

    /// Whether the file was deleted or replaced under us. From then on nothing can be saved.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.0 {
            Backend::None => false,
            Backend::File(open) => open.file.is_lost(),
            Backend::Lost(_) => true,
        }
    }
}

impl OpenStateFile {
    fn new(
        connection: SqliteConnection,
        file: StateFile,
        loaded: Option<&LoadedState>,
    ) -> Result<Self, StoreError> {
        let meta = loaded.map_or_else(Meta::default, |loaded| Meta {
            epoch: loaded.snapshot.epoch,
            revision: loaded.snapshot.revision,
            host: loaded.host.clone(),
        });
        let mut open = Self { connection, file, meta };
        open.file.track_sidecars()?;
        // SQLite opens by name: what it has is what we have locked.
        open.check_present()?;
        Ok(open)
    }

    fn check_present(&self) -> Result<(), StoreError> {
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
            let Some((first, last)) =
                first.zip(last.and_then(|last| last.checked_sub(MAX_HISTORY_EVENTS)))
            else {
                return Ok(());
            };
            // What is behind `first` went when that was the newest.
            let range = [first.saturating_sub(MAX_HISTORY_EVENTS), last].map(u64::cast_signed);
            connection.prepare_cached(DELETE_OLD_EVENTS)?.execute(range)?;
            Ok(())
        })
    }

    fn commit(
        &mut self,
        meta: Meta,
        fill: impl FnOnce(&SqliteConnection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        // SQLite would go on with the deleted file, and what it keeps there is lost at the end.
        self.check_present()?;
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

impl Drop for OpenStateFile {
    fn drop(&mut self) {
        // At its end SQLite removes the log by name, and there it may be another daemon's by now.
        if self.file.is_lost() {
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}
