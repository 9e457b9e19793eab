//! The state file's place: where it is unless told, that it is ours alone, and how a damaged one
//! makes way for a new one. What is in it is the [store](super::store)'s.

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
use super::files::{FileIdentity, with_suffix};

/// `CtxD`: marks a SQLite file as ours, from its very first commit on.
pub(super) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"CtxD");
/// How every SQLite file starts.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the application id is in a SQLite file.
const APPLICATION_ID_AT: usize = 68;
/// What SQLite keeps beside a file. Beside another file these would be taken for that one's.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Why the state cannot be kept in a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another daemon has it.
    #[error(
        "another daemon keeps its state in {}: end that one, or choose another file with --state",
        .0.display()
    )]
    InUse(PathBuf),
    /// The file, or one that belongs to it, is not what we would have made.
    #[error(
        "the state file {} {what}: it is left alone. Choose another file with --state, or none \
         with --no-state", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A later daemon has written it.
    #[error(
        "the state file {} is of version {version}, and this daemon knows versions up to {known}: \
         start the newer daemon, or choose another file with --state", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// The last version that this daemon knows.
        known: i32,
    },
    /// The file was deleted or replaced since it was opened: what is saved there, nobody finds.
    #[error("the state file {} was deleted or replaced: nothing can be saved in it", .0.display())]
    Lost(PathBuf),
    /// The system or SQLite refused.
    #[error("cannot {what} {}: {reason}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said. It is in the sentence already, which peers are told as well.
        reason: io::Error,
    },
}

pub(super) fn failed<E: Into<io::Error>>(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::System { what, path, reason: error.into() }
}

/// What the bytes at the state file's path are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileContent {
    /// None: the file is new.
    Empty,
    /// A state file's, damaged or not.
    StateFile,
    /// Something else's.
    Foreign,
}

/// A state file that is locked by us.
///
/// Its descriptor stays open for as long as SQLite has the file: closing any descriptor of a file
/// gives up all POSIX locks that the process has on it, and those are SQLite's.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    descriptor: OwnedFd,
    /// What must stay where it is for anything saved to be found again.
    files: Vec<(PathBuf, FileIdentity)>,
}

/// Makes the directory of a state file and gives the path by which SQLite takes it: with
/// no-follow it refuses links also in the directories, and systemd and home directories use them.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let Some(name) = path.file_name() else {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            what: "is not the name of a file",
        });
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
    /// Locks the file at a [resolved](resolve) path, which is made, empty, if it is not there.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        loop {
            let descriptor = open_checked(path, OFlags::CREATE)?;
            match flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse(path.to_owned())),
                Err(errno) => return Err(failed("lock the state file", path)(errno)),
            }
            let stat = fstat(&descriptor).map_err(failed("look at the state file", path))?;
            let files = vec![(path.to_owned(), FileIdentity::of(&stat))];
            let file = Self { path: path.to_owned(), descriptor, files };
            // Between its opening and its locking another daemon may have replaced it.
            if !file.is_lost() {
                file.check_sidecars()?;
                return Ok(file);
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in the file, told without SQLite, which would change a file that is not ours.
    pub(super) fn content(&self) -> Result<FileContent, StoreError> {
        let mut header = [0; APPLICATION_ID_AT + 4];
        let read = rustix::io::pread(&self.descriptor, &mut header, 0)
            .map_err(failed("read the state file", &self.path))?;
        let ours = header.starts_with(MAGIC) && header.ends_with(&APPLICATION_ID.to_be_bytes());
        Ok(match read {
            0 => FileContent::Empty,
            _ if ours => FileContent::StateFile,
            _ => FileContent::Foreign,
        })
    }

    /// Replaces the empty file by one that `fill` has filled under another name: a state file is
    /// whole or not there, whenever the daemon or the machine stops.
    pub(super) fn replace(
        self,
        fill: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if SIDECARS.iter().any(|sidecar| lstat(beside(&self.path, sidecar)).is_ok()) {
            let aside = move_aside(&self.path, &SIDECARS)?;
            tracing::warn!(
                path = %self.path.display(),
                aside = %aside.display(),
                "the state file is gone, but not what belonged to it: that was set aside"
            );
        }
        let new = beside(&self.path, ".new");
        for leftover in ["", "-wal", "-shm", "-journal"].map(|suffix| beside(&new, suffix)) {
            match std::fs::remove_file(&leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove the leftover", &leftover)(error));
                }
                _ => {}
            }
        }
        let descriptor = open_checked(&new, OFlags::CREATE | OFlags::EXCL)?;
        let filled = fill(&new).and_then(|()| {
            fsync(&descriptor).map_err(failed("write the state file", &new))?;
            std::fs::rename(&new, &self.path)
                .map_err(failed("put the state file into place at", &self.path))
        });
        if filled.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        filled
    }

    /// Renames the file and what belongs to it, and gives its new name.
    pub(super) fn set_aside(self) -> Result<PathBuf, StoreError> {
        let [wal, shm, journal] = SIDECARS;
        move_aside(&self.path, &["", wal, shm, journal])
    }

    /// Takes note of what SQLite has opened beside the file.
    pub(super) fn track_sidecars(&mut self) -> Result<(), StoreError> {
        for path in ["-wal", "-shm"].map(|sidecar| beside(&self.path, sidecar)) {
            let stat = lstat(&path).map_err(failed("look at", &path))?;
            self.files.push((path, FileIdentity::of(&stat)));
        }
        Ok(())
    }

    /// Whether the file, or what belongs to it, is no longer found under its name.
    pub(super) fn is_lost(&self) -> bool {
        let there = |(path, identity): &(PathBuf, FileIdentity)| {
            lstat(path).is_ok_and(|stat| FileIdentity::of(&stat) == *identity)
        };
        !self.files.iter().all(there)
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
        // Closing alone would leave it locked while a process that was just forked has it, too.
        let _ = flock(&self.descriptor, FlockOperation::Unlock);
    }
}

/// Opens a file that is ours: a regular one, of our user, which nobody else may read.
fn open_checked(path: &Path, flags: OFlags) -> Result<OwnedFd, StoreError> {
    let foreign = |what| StoreError::Foreign { path: path.to_owned(), what };
    let mode = Mode::RUSR | Mode::WUSR;
    // Without NONBLOCK a FIFO in the file's place could hold us up for ever.
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, mode) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(foreign("is a symbolic link")),
        Err(Errno::ISDIR) => return Err(foreign("is a directory")),
        Err(Errno::NXIO | Errno::NODEV) => return Err(foreign("is not a regular file")),
        Err(errno) => return Err(failed("open the state file", path)(errno)),
    };
    let stat = fstat(&file).map_err(failed("look at the state file", path))?;
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

/// Renames what is at `path` with each of the suffixes, if it is there.
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
                return Err(failed("set aside the damaged state file", path)(error));
            }
            _ => {}
        }
    }
    Ok(aside)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    with_suffix(path.as_os_str(), suffix).into()
}
