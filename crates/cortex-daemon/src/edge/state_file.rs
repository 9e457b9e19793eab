//! The state file as a file: its lock, its owner, its replacement when it is damaged. The
//! [store](super::store) reads and writes its content.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{
    FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, fsync, lstat, open,
};
use rustix::io::Errno;
use thiserror::Error;

use super::credentials::own_uid;
use super::files::{FileIdentity, FileOrigin, remove_if_present, with_suffix};

/// `CtxD`: SQLite's application id in every state file.
pub(super) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"CtxD");
/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The offset of the application id in a SQLite file.
const APPLICATION_ID_AT: usize = 68;
/// The suffixes of SQLite's additional files. SQLite reads them as part of any database file with
/// the same name.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Why the daemon cannot use its state file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another daemon has locked it.
    #[error(
        "another daemon uses the state file {}: stop it, or choose another file with --state",
        .0.display()
    )]
    InUse(PathBuf),
    /// The file, or one of SQLite's additional files, is not a state file of this user.
    #[error(
        "the state file {} {what}: the daemon does not change it. Choose another file with \
         --state, or run without one with --no-state", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The reason, such as "is a symbolic link".
        what: &'static str,
    },
    /// A newer daemon has written it.
    #[error(
        "the state file {} has version {version}, and this daemon can read versions up to {known}: \
         start the newer daemon, or choose another file with --state", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// The newest version that this daemon can read.
        known: i32,
    },
    /// The file was deleted or replaced after the daemon had opened it.
    #[error(
        "the state file {} was deleted or replaced: the daemon cannot save to it", .0.display()
    )]
    Lost(PathBuf),
    /// The disk was full when the daemon started. It saves as soon as there is space.
    #[error("cannot save to the state file {}: {reason}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The error of the system or of SQLite.
        reason: String,
    },
    /// Another error of the system or of SQLite.
    #[error("cannot {what} {}: {reason}", path.display())]
    System {
        /// The operation, such as "open the state file".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error. It is no `source`, because the message contains it: clients get only that.
        reason: io::Error,
    },
}

impl StoreError {
    /// Whether another daemon has locked the file.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse(_))
    }

    /// Whether the file can be used as soon as its disk has space.
    pub(crate) fn is_for_lack_of_space(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};

        if let Self::System { reason, .. } = self {
            return matches!(reason.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        }
        matches!(self, Self::NoSpace { .. })
    }

    /// Whether a daemon that needs no state file may ignore the error and use none.
    pub(crate) fn is_unusable_place(&self) -> bool {
        !matches!(self, Self::InUse(_) | Self::Newer { .. })
    }
}

pub(super) fn failed<E: Into<io::Error>>(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::System { what, path, reason: error.into() }
}

/// The kind of file at the state file's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileContent {
    /// A new file without content.
    Empty,
    /// A state file, damaged or not.
    StateFile,
    /// Another program's file.
    Foreign,
}

/// A locked state file.
///
/// Its descriptor stays open as long as SQLite uses the file: when a process closes any descriptor
/// of a file, it loses all its POSIX locks on the file, and SQLite needs them.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    descriptor: OwnedFd,
    origin: FileOrigin,
    /// The files that a later daemon needs to read what this one saves.
    files: Vec<(PathBuf, FileIdentity)>,
}

/// Creates the directory of a state file and returns the path without symbolic links. SQLite's
/// no-follow option refuses links in the directories too, and systemd and home directories use
/// them.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let Some(name) = path.file_name() else {
        return Err(StoreError::Foreign { path: path.to_owned(), what: "is not a file name" });
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let what = "create the state file's directory";
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed(what, directory))?;
    let directory = directory.canonicalize().map_err(failed(what, directory))?;
    Ok(directory.join(name))
}

impl StateFile {
    /// Locks the file at a [resolved](resolve) path. Creates an empty one if it is missing.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        loop {
            let descriptor = open_checked(path, OFlags::CREATE)?;
            match flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse(path.to_owned())),
                Err(errno) => return Err(failed("lock the state file", path)(errno)),
            }
            let what = "get the metadata of the state file";
            let stat = fstat(&descriptor).map_err(failed(what, path))?;
            let origin = FileOrigin::of(&descriptor).map_err(failed(what, path))?;
            let files = vec![(path.to_owned(), FileIdentity::of(&stat))];
            let file = Self { path: path.to_owned(), descriptor, origin, files };
            // Another daemon may have replaced the file before this one locked it.
            if !file.is_lost() {
                file.check_sidecars()?;
                return Ok(file);
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn origin(&self) -> FileOrigin {
        self.origin
    }

    /// The kind of file, found out without SQLite, which might change another program's file.
    pub(super) fn content(&self) -> Result<FileContent, StoreError> {
        let mut header = [0; APPLICATION_ID_AT + 4];
        let read = rustix::io::pread(&self.descriptor, &mut header, 0)
            .map_err(failed("read the state file", &self.path))?;
        let is_state_file =
            header.starts_with(MAGIC) && header.ends_with(&APPLICATION_ID.to_be_bytes());
        Ok(match read {
            0 => FileContent::Empty,
            _ if is_state_file => FileContent::StateFile,
            _ => FileContent::Foreign,
        })
    }

    /// Replaces the empty file by one that `fill` writes under another name. So a state file is
    /// complete or absent, whenever the daemon or the machine stops.
    pub(super) fn replace(
        self,
        fill: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.has_sidecars() {
            let aside = move_aside(&self.path, &SIDECARS)?;
            tracing::warn!(
                path = %self.path.display(),
                aside = %aside.display(),
                "SQLite's additional files remain without the state file: the daemon renamed them"
            );
        }
        let new = beside(&self.path, ".new");
        for leftover in ["", "-wal", "-shm", "-journal"].map(|suffix| beside(&new, suffix)) {
            remove_if_present(&leftover).map_err(failed("remove the old file", &leftover))?;
        }
        let descriptor = open_checked(&new, OFlags::CREATE | OFlags::EXCL)?;
        let filled = fill(&new).and_then(|()| {
            fsync(&descriptor).map_err(failed("write the state file", &new))?;
            std::fs::rename(&new, &self.path).map_err(failed("move the state file to", &self.path))
        });
        if filled.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        filled
    }

    /// Renames the file and SQLite's additional files, and returns the new path.
    pub(super) fn set_aside(self) -> Result<PathBuf, StoreError> {
        let [wal, shm, journal] = SIDECARS;
        move_aside(&self.path, &["", wal, shm, journal])
    }

    /// Remembers the additional files that SQLite has opened.
    pub(super) fn track_sidecars(&mut self, uses_shared_memory: bool) -> Result<(), StoreError> {
        let sidecars = if uses_shared_memory { &["-wal", "-shm"][..] } else { &["-wal"] };
        for path in sidecars.iter().map(|sidecar| beside(&self.path, sidecar)) {
            let stat = lstat(&path).map_err(failed("get the metadata of", &path))?;
            self.files.push((path, FileIdentity::of(&stat)));
        }
        Ok(())
    }

    /// Whether SQLite's additional files hold changes that the file itself may not have.
    pub(super) fn has_sidecars(&self) -> bool {
        SIDECARS.iter().any(|sidecar| lstat(beside(&self.path, sidecar)).is_ok())
    }

    /// Whether the file or an additional file was deleted or replaced.
    pub(super) fn is_lost(&self) -> bool {
        let is_present = |(path, identity): &(PathBuf, FileIdentity)| {
            lstat(path).is_ok_and(|stat| FileIdentity::of(&stat) == *identity)
        };
        !self.files.iter().all(is_present)
    }

    fn check_sidecars(&self) -> Result<(), StoreError> {
        for path in SIDECARS.map(|sidecar| beside(&self.path, sidecar)) {
            match open_checked(&path, OFlags::empty()) {
                Err(StoreError::System { reason, .. })
                    if reason.kind() == io::ErrorKind::NotFound => {}
                opened => drop(opened?),
            }
        }
        Ok(())
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        // Closing alone does not unlock the file while a forked process has the descriptor too.
        let _ = flock(&self.descriptor, FlockOperation::Unlock);
    }
}

/// Opens a regular file of this user, and sets its mode to 0600.
pub(super) fn open_checked(path: &Path, flags: OFlags) -> Result<OwnedFd, StoreError> {
    let foreign = |what| StoreError::Foreign { path: path.to_owned(), what };
    let mode = Mode::RUSR | Mode::WUSR;
    // Without NONBLOCK the open of a FIFO could block for ever.
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, mode) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(foreign("is a symbolic link")),
        Err(Errno::ISDIR) => return Err(foreign("is a directory")),
        Err(Errno::NXIO | Errno::NODEV) => return Err(foreign("is not a regular file")),
        Err(errno) => return Err(failed("open the state file", path)(errno)),
    };
    let stat = fstat(&file).map_err(failed("get the metadata of the state file", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(foreign("is not a regular file"));
    }
    if stat.st_uid != own_uid() {
        return Err(foreign("belongs to another user"));
    }
    if Mode::from_raw_mode(stat.st_mode) != mode {
        fchmod(&file, mode).map_err(failed("set the mode of the state file", path))?;
    }
    Ok(file)
}

/// Renames the existing files at `path` with each of the suffixes.
fn move_aside(path: &Path, suffixes: &[&str]) -> Result<PathBuf, StoreError> {
    let mut seconds = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let aside = loop {
        let aside = beside(path, &format!(".damaged-{seconds}"));
        let taken = |suffix: &&str| lstat(beside(&aside, suffix)).is_ok();
        if !suffixes.iter().any(taken) {
            break aside;
        }
        seconds += 1;
    };
    for suffix in suffixes {
        match std::fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("rename the damaged state file", path)(error));
            }
            _ => {}
        }
    }
    Ok(aside)
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    with_suffix(path.as_os_str(), suffix).into()
}
