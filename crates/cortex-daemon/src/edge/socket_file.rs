//! The socket file: one daemon owns it at a time, replaces it only when no daemon listens there,
//! and removes it at the end.
//!
//! 1. The daemon locks `PATH.lock`, so that two daemons never check the same path at once.
//! 2. It connects to the path. If the connection succeeds, another daemon keeps the path, even one
//!    that takes no lock.
//! 3. It binds the socket to a new name in the same directory, listens, and renames the file to the
//!    path. So no client finds the path absent or refusing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, open, openat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use thiserror::Error;

use super::credentials::own_uid;
use super::files::{FileIdentity, with_suffix};
use super::random::random_u64;
use super::socket::{BACKLOG, unix_socket};
use crate::config::MAX_SOCKET_PATH;

/// A locked socket file. Dropping it removes the socket file and the lock file, unless another
/// program has replaced them.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    name: OsString,
    lock_name: OsString,
    /// The directory, locked in shared mode: systemd-tmpfiles skips locked directories.
    directory: OwnedFd,
    lock: OwnedFd,
    identity: FileIdentity,
}

/// Why the daemon cannot create its socket file.
#[derive(Debug, Error)]
pub enum SocketFileError {
    /// Another daemon listens there.
    #[error("a daemon already runs at ipc://{}", .0.display())]
    AlreadyRuns(PathBuf),
    /// The path leads to a file that is not a socket.
    #[error(
        "{} is not a socket, so the daemon does not replace it. Remove it, or choose another \
         address", .0.display()
    )]
    NotASocket(PathBuf),
    /// The socket belongs to another user, and no daemon listens there.
    #[error(
        "the unused socket {} belongs to another user, so the daemon does not replace it. Remove \
         it, or choose another address", .0.display()
    )]
    ForeignSocket(PathBuf),
    /// The lock file was not created by a daemon of this user.
    #[error("the lock file {} {what}: choose another address", path.display())]
    ForeignLock {
        /// The lock file.
        path: PathBuf,
        /// The reason, such as "is a symbolic link".
        what: &'static str,
    },
    /// Another error of the system.
    #[error("cannot {what} {}", path.display())]
    System {
        /// The operation, such as "lock".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> SocketFileError {
    let path = path.to_owned();
    move |errno| SocketFileError::System { what, path, source: errno.into() }
}

impl SocketFile {
    /// Locks the path, creates the socket file and listens.
    pub(crate) fn create(
        path: &Path,
        mode: Option<u32>,
    ) -> Result<(Self, UnixListener), SocketFileError> {
        let directory_path = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or(path.as_os_str()).to_owned();
        let lock_name = with_suffix(&name, ".lock");

        let directory = open_directory(directory_path)?;
        let lock = lock_exclusively(path, &directory, &lock_name)?;
        // From here on the lock file is also removed after an error.
        let mut file = Self {
            path: path.to_owned(),
            name,
            lock_name,
            identity: FileIdentity::NONE,
            directory,
            lock,
        };
        check_replaceable(path)?;
        let listener = file.listen(directory_path, mode)?;
        Ok((file, listener))
    }

    /// The path that clients connect to.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path no longer leads to this socket. Checks the whole path, because
    /// another program may have moved the directory.
    pub(crate) fn is_lost(&self) -> bool {
        match rustix::fs::lstat(&self.path) {
            Ok(stat) => FileIdentity::of(&stat) != self.identity,
            // After any other error clients may still be able to connect.
            Err(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR),
        }
    }

    fn has_file(&self, name: &OsStr, identity: FileIdentity) -> bool {
        statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileIdentity::of(&stat) == identity)
    }

    /// Binds the socket to another name, listens, and renames the file to the path.
    fn listen(
        &mut self,
        directory_path: &Path,
        mode: Option<u32>,
    ) -> Result<UnixListener, SocketFileError> {
        let aside = OsString::from(format!(".new-{:016x}", random_u64()));
        let path = directory_path.join(&aside);
        let socket = unix_socket().map_err(failed("create a socket for", &self.path))?;
        let address =
            self.bind_address(&path, &aside).map_err(failed("build the socket address", &path))?;
        rustix::net::bind(&socket, &address).map_err(failed("create the socket", &path))?;
        let placed = statat(&self.directory, &aside, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
            if let Some(mode) = mode {
                chmodat(&self.directory, &aside, Mode::from_raw_mode(mode), AtFlags::empty())?;
            }
            rustix::net::listen(&socket, BACKLOG)?;
            renameat(&self.directory, &aside, &self.directory, &self.name)?;
            self.identity = FileIdentity::of(&stat);
            Ok(())
        });
        if let Err(errno) = placed {
            let _ = unlinkat(&self.directory, &aside, AtFlags::empty());
            return Err(failed("move the socket to", &self.path)(errno));
        }
        Ok(UnixListener::from(socket))
    }

    /// The socket address for the temporary name, whose path may be longer than the final one. A
    /// path that is too long leads through the directory's descriptor.
    fn bind_address(&self, path: &Path, aside: &OsStr) -> Result<SocketAddrUnix, Errno> {
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return SocketAddrUnix::new(path);
        }
        let through = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        SocketAddrUnix::new(Path::new(&through).join(aside))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: the next daemon replaces a remaining file.
        if self.has_file(&self.name, self.identity) {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
        // Removed while it is locked: a daemon that locks the removed file notices it and opens
        // the path again.
        if fstat(&self.lock)
            .is_ok_and(|stat| self.has_file(&self.lock_name, FileIdentity::of(&stat)))
        {
            let _ = unlinkat(&self.directory, &self.lock_name, AtFlags::empty());
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, SocketFileError> {
    std::fs::create_dir_all(path).map_err(|source| SocketFileError::System {
        what: "create the socket's directory",
        path: path.to_owned(),
        source,
    })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        open(path, flags, Mode::empty()).map_err(failed("open the socket's directory", path))?;
    if let Err(errno) = flock(&directory, FlockOperation::NonBlockingLockShared) {
        let directory = path.display();
        tracing::debug!(%directory, error = %errno, "cannot lock the socket's directory");
    }
    let owner = fstat(&directory).map_err(failed("get the metadata of", path))?.st_uid;
    if owner != 0 && owner != own_uid() {
        tracing::warn!(
            directory = %path.display(),
            owner,
            "the socket's directory belongs to another user, who can replace the socket"
        );
    }
    Ok(directory)
}

/// Creates the lock file if it is missing, and locks it. An error is `AlreadyRuns` if a daemon
/// listens at the socket.
fn lock_exclusively(
    socket: &Path,
    directory: &OwnedFd,
    name: &OsStr,
) -> Result<OwnedFd, SocketFileError> {
    let path = with_suffix(socket.as_os_str(), ".lock");
    let path = Path::new(&path);
    try_lock(socket, path, directory, name).map_err(|error| match is_served(socket) {
        Ok(true) => SocketFileError::AlreadyRuns(socket.to_owned()),
        _ => error,
    })
}

fn try_lock(
    socket: &Path,
    path: &Path,
    directory: &OwnedFd,
    name: &OsStr,
) -> Result<OwnedFd, SocketFileError> {
    let foreign = |what| SocketFileError::ForeignLock { path: path.to_owned(), what };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let lock = match openat(directory, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(lock) => lock,
            Err(Errno::LOOP) => return Err(foreign("is a symbolic link")),
            Err(Errno::ACCESS) if statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() => {
                return Err(foreign("cannot be opened; it may belong to another user's daemon"));
            }
            Err(errno) => return Err(failed("open the lock file", path)(errno)),
        };
        let locked = fstat(&lock).map_err(failed("get the metadata of", path))?;
        if FileType::from_raw_mode(locked.st_mode) != FileType::RegularFile {
            return Err(foreign("is not a regular file"));
        }
        if locked.st_uid != own_uid() {
            return Err(foreign("belongs to another user, whose daemon may be running"));
        }
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(SocketFileError::AlreadyRuns(socket.to_owned()));
            }
            Err(errno) => return Err(failed("lock", path)(errno)),
        }
        // Another daemon may have removed the file before this one locked it.
        match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(current) if FileIdentity::of(&current) == FileIdentity::of(&locked) => {
                return Ok(lock);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("get the metadata of", path)(errno)),
        }
    }
}

/// Checks that the path is free, or leads to a socket of this user where no daemon listens.
fn check_replaceable(path: &Path) -> Result<(), SocketFileError> {
    match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("get the metadata of", path)(errno)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(SocketFileError::NotASocket(path.to_owned()));
        }
        Ok(stat) if stat.st_uid != own_uid() => {
            return Err(match is_served(path) {
                Ok(true) => SocketFileError::AlreadyRuns(path.to_owned()),
                _ => SocketFileError::ForeignSocket(path.to_owned()),
            });
        }
        Ok(_) => {}
    }
    match is_served(path) {
        Ok(true) => Err(SocketFileError::AlreadyRuns(path.to_owned())),
        Ok(false) => {
            tracing::info!(path = %path.display(), "replacing an unused socket file");
            Ok(())
        }
        Err(errno) => Err(failed("connect to", path)(errno)),
    }
}

/// Whether a program listens at a path.
fn is_served(path: &Path) -> Result<bool, Errno> {
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::connect(unix_socket()?.as_fd(), &address) {
        // A full backlog: the program listens, but does not accept fast enough.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
