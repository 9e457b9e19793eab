//! The persistent state: topics and their history, in a SQLite file.
//!
//! A commit survives the end of the process. After a power failure the file contains the last
//! commit or an earlier one, complete. SQLite's integers are signed: the store casts unsigned ones.
//!
//! The store trusts SQLite to find damage in the structure of the file, and checks that each row is
//! one that a daemon can have written. A value that is wrong and possible is taken as it is: a
//! wrong value of one topic harms less than the loss of all topics.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection as SqliteConnection, TransactionBehavior};

use super::files::FileOrigin;
use super::processes::Host;
use super::state_file::{FileContent, StateFile, StoreError, failed, resolve};
use crate::registry::{Snapshot, Write};
use database::{Content, LoadedFile, Sharing, create, load, load_read_only};
pub(crate) use history_loss::HistoryLoss;
use load_error::{LoadError, may_be_lack_of_space, write_error};
use migration::migrate;
use rows::{Meta, put_meta, put_topic, put_write};
use schema::{PRESENT, Schema};
use tip::{FoundTip, Tip, TipFile};

mod database;
mod history_loss;
mod load_error;
mod migration;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod tip;

/// The number of events in the history.
pub(crate) const MAX_HISTORY_EVENTS: u64 = 65_536;

const DELETE_OLD_EVENTS: &str = "DELETE FROM events WHERE revision BETWEEN ?1 AND ?2";

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadedState {
    /// The topics and their history.
    pub(crate) snapshot: Snapshot,
    /// The host on which they were saved.
    pub(crate) host: Host,
    /// Why the history does not go on: then the caller must start a new epoch with
    /// [`Store::reset`] before it saves anything.
    pub(crate) history_loss: Option<HistoryLoss>,
}

/// Saves topics and their history.
///
/// After an error the file has the content from before the call. Later calls work as soon as the
/// file works again.
#[derive(Debug)]
pub(crate) struct Store(Backend);

#[derive(Debug)]
enum Backend {
    /// Saves nothing.
    None,
    File(Box<OpenStateFile>),
    /// The file was deleted or replaced: every save fails.
    Lost(PathBuf),
    /// The disk was full at the start: every save fails.
    NoSpace(NoSpace),
}

#[derive(Debug)]
struct NoSpace {
    path: PathBuf,
    reason: String,
    /// The content of the file, if the daemon has loaded it without a change.
    loaded: Option<Meta>,
}

#[derive(Debug)]
struct OpenStateFile {
    // Before `file`, so that SQLite closes before the lock ends.
    connection: SqliteConnection,
    file: StateFile,
    tip_file: TipFile,
    meta: Meta,
    /// Whether a new history must begin before the next save.
    needs_reset: bool,
}

impl Store {
    /// Opens the file and reads its content. Creates the file if it is missing.
    ///
    /// `None`: the file is empty, because it is new, or because the old one was damaged and now has
    /// another name. Then the caller must call [`reset`](Self::reset) before it saves anything.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<LoadedState>), StoreError> {
        let path = resolve(path)?;
        let mut was_set_aside = false;
        loop {
            let file = StateFile::lock(&path)?;
            match file.content()? {
                FileContent::StateFile => {}
                FileContent::Empty => {
                    file.replace(create)?;
                    continue;
                }
                FileContent::Foreign => {
                    return Err(StoreError::Foreign { path, what: "is not a file of this daemon" });
                }
            }
            let what = match load_or_read(&path, &file) {
                Ok(Opened::Writable(loaded, sharing)) => {
                    return Self::writable(path, file, loaded, sharing);
                }
                Ok(Opened::ReadOnly(reason, content)) => {
                    return Self::read_only(path, &file, reason, content);
                }
                Err(LoadError::Damaged(what)) => what,
                Err(error) => return Err(unusable(path, error)),
            };
            if was_set_aside {
                let error = failed("create an undamaged state file at", &path);
                return Err(error(io::Error::other(what)));
            }
            let aside = file.set_aside()?;
            was_set_aside = true;
            tracing::warn!(
                path = %path.display(),
                aside = %aside.display(),
                what,
                "the state file is damaged: the daemon renamed it and starts without topics"
            );
        }
    }

    fn writable(
        path: PathBuf,
        file: StateFile,
        loaded: LoadedFile,
        sharing: Sharing,
    ) -> Result<(Self, Option<LoadedState>), StoreError> {
        let schema = loaded.schema;
        let (mut open, loaded) = OpenStateFile::new(file, loaded, sharing)?;
        let backend = match open.migrate_from(schema) {
            Ok(()) => Backend::File(Box::new(open)),
            Err(error) if error.is_for_lack_of_space() => {
                let (reason, meta) = (space_problem(&error), Some(open.meta.clone()));
                Backend::NoSpace(NoSpace { path, reason, loaded: meta })
            }
            Err(error) => return Err(error),
        };
        Ok((Self(backend), loaded))
    }

    fn read_only(
        path: PathBuf,
        file: &StateFile,
        reason: String,
        content: Option<Content>,
    ) -> Result<(Self, Option<LoadedState>), StoreError> {
        let meta = Some(Meta::of(content.as_ref(), file));
        let (_, found_tip) = TipFile::open(&path)?;
        let loaded = content.map(|content| LoadedState::new(content, file.origin(), found_tip));
        Ok((Self(Backend::NoSpace(NoSpace { path, reason, loaded: meta })), loaded))
    }

    /// A store for a file that cannot be created or written until its disk has space. Every save
    /// fails until then.
    pub(crate) fn without_space(path: &Path, error: &StoreError) -> Self {
        let reason = space_problem(error);
        Self(Backend::NoSpace(NoSpace { path: path.to_owned(), reason, loaded: None }))
    }

    /// Whether the store has the topics and the history of another one, which could not be written
    /// since it was loaded.
    pub(crate) fn continues(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Backend::File(open), Backend::NoSpace(no_space)) => {
                !open.needs_reset && no_space.loaded.as_ref() == Some(&open.meta)
            }
            _ => false,
        }
    }

    /// A store that saves nothing and never fails.
    pub(crate) fn none() -> Self {
        Self(Backend::None)
    }

    /// Closes a file that was deleted or replaced, so that the daemon can create a new one at the
    /// path. Every save fails until then.
    pub(crate) fn mark_lost(&mut self) {
        if let Backend::File(open) = &self.0 {
            self.0 = Backend::Lost(open.file.path().to_owned());
        }
    }

    /// The file to save to; `None` if the store saves nothing.
    fn file(&mut self) -> Result<Option<&mut OpenStateFile>, StoreError> {
        match &mut self.0 {
            Backend::None => Ok(None),
            Backend::File(open) => Ok(Some(open)),
            Backend::Lost(path) => Err(StoreError::Lost(path.clone())),
            Backend::NoSpace(NoSpace { path, reason, .. }) => {
                Err(StoreError::NoSpace { path: path.clone(), reason: reason.clone() })
            }
        }
    }

    /// Starts a new epoch: replaces all topics by those of the snapshot, and deletes the history.
    pub(crate) fn reset(&mut self, snapshot: &Snapshot, host: &Host) -> Result<(), StoreError> {
        let Some(open) = self.file()? else { return Ok(()) };
        let Snapshot { epoch, revision, ref records, .. } = *snapshot;
        let meta = Meta { epoch, revision, host: host.clone(), origin: open.file.origin() };
        open.needs_reset = true;
        open.commit(meta, |connection| {
            connection.execute_batch("DELETE FROM topics; DELETE FROM events")?;
            records.iter().try_for_each(|record| put_topic(connection, record))
        })?;
        open.needs_reset = false;
        Ok(())
    }

    /// Saves all changes, or none after an error. The revision becomes that of the last event.
    pub(crate) fn save(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let Some(open) = self.file()? else { return Ok(()) };
        open.save(open.meta.clone(), writes)
    }

    /// Saves the daemon's host together with changes, in one transaction.
    pub(crate) fn save_host(&mut self, host: &Host, writes: &[Write]) -> Result<(), StoreError> {
        let Some(open) = self.file()? else { return Ok(()) };
        open.save(Meta { host: host.clone(), ..open.meta }, writes)
    }

    /// Whether the file was deleted or replaced. From then on every save fails.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.0 {
            Backend::None | Backend::NoSpace(_) => false,
            Backend::File(open) => open.file.is_lost(),
            Backend::Lost(_) => true,
        }
    }

    /// Whether the disk was full at the start. From then on every save fails.
    pub(crate) fn lacks_space(&self) -> bool {
        matches!(self.0, Backend::NoSpace(_))
    }
}

/// Why a state file cannot be used, although it is not damaged.
fn unusable(path: PathBuf, error: LoadError) -> StoreError {
    match error {
        LoadError::Newer(version) => StoreError::Newer { path, version, known: PRESENT.version },
        LoadError::NoWriteAheadLog => {
            let what = "is on a file system without the shared memory that SQLite needs";
            StoreError::Foreign { path, what }
        }
        LoadError::Damaged(what) => failed("read the state file", &path)(io::Error::other(what)),
        LoadError::Sqlite(error) => failed("open the state file", &path)(io::Error::other(error)),
    }
}

/// What the system says about the lack of space.
fn space_problem(error: &StoreError) -> String {
    if let StoreError::System { reason, .. } = error {
        reason.to_string()
    } else if let StoreError::NoSpace { reason, .. } = error {
        reason.clone()
    } else {
        error.to_string()
    }
}

/// A state file that SQLite has read.
enum Opened {
    Writable(LoadedFile, Sharing),
    /// The disk is full, for this reason.
    ReadOnly(String, Option<Content>),
}

/// Loads a state file, also on a full disk.
fn load_or_read(path: &Path, file: &StateFile) -> Result<Opened, LoadError> {
    let try_load = |sharing| match load(path, sharing) {
        Err(LoadError::Sqlite(error)) if may_be_lack_of_space(&error) => Ok(Err(error)),
        loaded => loaded.map(|loaded| Ok(Opened::Writable(loaded, sharing))),
    };
    if let Ok(opened) = try_load(Sharing::Shared)? {
        return Ok(opened);
    }
    match try_load(Sharing::Exclusive)? {
        Ok(opened) => {
            tracing::warn!(
                path = %path.display(),
                "the disk of the state file is full: other programs cannot read the file while \
                 this daemon runs"
            );
            Ok(opened)
        }
        // The changes may be in an additional file.
        Err(error) if file.has_sidecars() => Err(LoadError::Sqlite(error)),
        Err(error) => Ok(Opened::ReadOnly(error.to_string(), load_read_only(path)?)),
    }
}

impl LoadedState {
    fn new(content: Content, origin: FileOrigin, found_tip: FoundTip) -> Self {
        let history_loss = HistoryLoss::find(&content, origin, found_tip);
        Self { snapshot: content.snapshot, host: content.host, history_loss }
    }
}

impl OpenStateFile {
    fn new(
        file: StateFile,
        loaded: LoadedFile,
        sharing: Sharing,
    ) -> Result<(Self, Option<LoadedState>), StoreError> {
        let LoadedFile { connection, content, .. } = loaded;
        let meta = Meta::of(content.as_ref(), &file);
        let (tip_file, found_tip) = TipFile::open(file.path())?;
        let mut open = Self { connection, file, tip_file, meta, needs_reset: true };
        open.file.track_sidecars(sharing == Sharing::Shared)?;
        // SQLite opened the file by its name: make sure that it is the locked one.
        open.check_present()?;

        let origin = open.file.origin();
        let loaded = content.map(|content| {
            let tip = Tip::of(&content);
            let loaded = LoadedState::new(content, origin, found_tip);
            open.needs_reset = loaded.history_loss.is_some();
            if !open.needs_reset {
                open.tip_file.renew(tip);
            }
            loaded
        });
        Ok((open, loaded))
    }

    /// Gives the present version to a file of an earlier one. It has a tip file by now, as a file of
    /// the present version must.
    fn migrate_from(&mut self, schema: &Schema) -> Result<(), StoreError> {
        if schema.version == PRESENT.version {
            return Ok(());
        }
        let what = "give the present version to the state file";
        migrate(&mut self.connection, schema, self.file.origin())
            .map_err(|error| failed(what, self.file.path())(write_error(error)))
    }

    fn check_present(&self) -> Result<(), StoreError> {
        if self.file.is_lost() {
            return Err(StoreError::Lost(self.file.path().to_owned()));
        }
        Ok(())
    }

    fn save(&mut self, mut meta: Meta, writes: &[Write]) -> Result<(), StoreError> {
        if self.needs_reset {
            let to_error = failed("save to the state file", self.file.path());
            return Err(to_error(io::Error::other("its new history is not stored yet")));
        }
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
            // Older events were deleted by earlier saves.
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
        // SQLite would save to the deleted file, and the changes would be lost at the end.
        self.check_present()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let committed = transaction.and_then(|transaction| {
            fill(&transaction)?;
            put_meta(&transaction, &meta)?;
            transaction.commit()
        });
        let to_error = failed("save to the state file", self.file.path());
        committed.map_err(|error| to_error(write_error(error)))?;
        let is_new = self.needs_reset || meta.revision != self.meta.revision;
        self.meta = meta;
        if is_new {
            self.tip_file.write(Tip { epoch: self.meta.epoch, revision: self.meta.revision });
        }
        Ok(())
    }
}

impl Meta {
    fn of(content: Option<&Content>, file: &StateFile) -> Self {
        content.map_or_else(Self::default, |content| Self {
            epoch: content.snapshot.epoch,
            revision: content.snapshot.revision,
            host: content.host.clone(),
            origin: content.origin.unwrap_or_else(|| file.origin()),
        })
    }
}
