//! The socket file: one daemon owns it at a time, replaces it only when no daemon listens there,
//! and removes it at the end.
//!
//! 1. The daemon locks `PATH.lock`, so that two daemons never check the same path at once.
//! 2. It connects to the path. If the connection succeeds, another daemon keeps the path, even one
//!    that takes no lock.
//! 3. It removes the unused socket file, binds the socket to the path, and listens. A socket that
//!    was renamed would keep its old name in `/proc/net/unix`, and programs that remove unused
//!    sockets, such as systemd-tmpfiles, would take it for one.
//! 4. At the end it removes the socket file, then the lock file while that is still locked. So a
//!    path without a socket file is free.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, open, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::process::{Pid, test_kill_process};

use super::credentials::own_uid;
use super::files::{FileIdentity, with_suffix};
use super::handover::wait_for_lock;
use super::served::{Server, server_at};
use super::socket::{BACKLOG, unix_socket};
use super::stop::StopHandle;
use super::users;
use bind::bind_with_mode;
pub use error::SocketFileError;
use error::failed;
use lock::lock_exclusively;

mod bind;
mod error;
mod lock;

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

impl SocketFile {
    /// Locks the path, creates the socket file and listens.
    pub(crate) fn create(
        path: &Path,
        mode: Option<u32>,
        stop: &StopHandle,
    ) -> Result<(Self, UnixListener), SocketFileError> {
        let directory_path = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or(path.as_os_str()).to_owned();
        let lock_name = with_suffix(&name, ".lock");

        let directory = open_directory(directory_path)?;
        let lock = take_lock(path, &directory, &lock_name, stop)?;
        // From here on the lock file is also removed after an error.
        let mut file = Self {
            path: path.to_owned(),
            name,
            lock_name,
            identity: FileIdentity::NONE,
            directory,
            lock,
        };
        file.remove_unused()?;
        let listener = file.listen(mode)?;
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

    /// Removes the socket file of a daemon that was killed.
    fn remove_unused(&self) -> Result<(), SocketFileError> {
        let Some(unused) = check_replaceable(&self.path)? else { return Ok(()) };
        tracing::info!(path = %self.path.display(), "replacing an unused socket file");
        // A program that takes no lock may have replaced the file meanwhile.
        if self.has_file(&self.name, FileIdentity::of(&unused)) {
            unlinkat(&self.directory, &self.name, AtFlags::empty())
                .map_err(failed("remove the unused socket", &self.path))?;
        }
        Ok(())
    }

    fn listen(&mut self, mode: Option<u32>) -> Result<UnixListener, SocketFileError> {
        let path = &self.path;
        let socket = unix_socket().map_err(failed("create a socket for", path))?;
        let address =
            SocketAddrUnix::new(path).map_err(failed("build the socket address", path))?;
        bind_with_mode(&socket, &address, mode).map_err(|errno| match server_at(&address) {
            // A program that takes no lock has bound the path meanwhile.
            Ok(Some(Server { pid })) if errno == Errno::ADDRINUSE => {
                SocketFileError::AlreadyRuns { path: path.clone(), pid }
            }
            _ => failed("create the socket", path)(errno),
        })?;
        let stat = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("get the metadata of", path))?;
        self.identity = FileIdentity::of(&stat);
        if let Some(mode) = mode
            && stat.st_mode & 0o777 != mode
        {
            tracing::warn!(
                path = %path.display(),
                mode = format!("{:o}", stat.st_mode & 0o777),
                requested = format!("{mode:o}"),
                "the socket has another mode than requested: the directory may have a default ACL"
            );
        }
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listen at", path))?;
        Ok(UnixListener::from(socket))
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
    std::fs::create_dir_all(path).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        failed("create the socket's directory", path)(errno)
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
            owner = %users::describe(owner),
            "the socket's directory belongs to another user, who can replace the socket: remove it \
             and let the daemon create it, or choose another address"
        );
    }
    Ok(directory)
}

/// Locks the path. While another daemon has locked it, this one waits for it to end, unless the
/// other one serves clients.
fn take_lock(
    socket: &Path,
    directory: &OwnedFd,
    name: &OsStr,
    stop: &StopHandle,
) -> Result<OwnedFd, SocketFileError> {
    let path = PathBuf::from(with_suffix(socket.as_os_str(), ".lock"));
    let is_locked = |error: &SocketFileError| matches!(error, SocketFileError::Locked(_));
    let is_ending = |error: &SocketFileError| {
        let of_ended =
            matches!(error, SocketFileError::AlreadyRuns { pid: Some(pid), .. } if has_ended(*pid));
        of_ended || is_locked(error)
    };
    wait_for_lock(stop, is_ending, || {
        lock_exclusively(&path, directory, name).map_err(|error| match server_at_path(socket) {
            Ok(Some(Server { pid })) => {
                SocketFileError::AlreadyRuns { path: socket.to_owned(), pid }
            }
            _ if is_locked(&error) => SocketFileError::Locked(socket.to_owned()),
            _ => error,
        })
    })
}

/// Whether no process has this pid any more. A daemon that was killed while it started its probe
/// helper leaves a child that holds the socket and the lock, for a moment: until it executes the
/// helper.
fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Checks that the path is free, or leads to a socket of this user where no daemon listens. Returns
/// that socket.
fn check_replaceable(path: &Path) -> Result<Option<Stat>, SocketFileError> {
    let stat = match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed("get the metadata of", path)(errno)),
        Ok(stat) => stat,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(SocketFileError::NotASocket(path.to_owned()));
    }
    match server_at_path(path) {
        Ok(Some(Server { pid })) => {
            Err(SocketFileError::AlreadyRuns { path: path.to_owned(), pid })
        }
        _ if stat.st_uid != own_uid() => {
            Err(SocketFileError::ForeignSocket { path: path.to_owned(), owner: stat.st_uid })
        }
        Ok(None) => Ok(Some(stat)),
        Err(errno) => Err(failed("connect to", path)(errno)),
    }
}

fn server_at_path(path: &Path) -> Result<Option<Server>, Errno> {
    server_at(&SocketAddrUnix::new(path)?)
}
