//! The lock file beside a socket, `PATH.lock`. Only the daemon that has locked it may touch the
//! socket file.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, openat, statat,
};
use rustix::io::Errno;

use super::error::{SocketFileError, failed};
use crate::edge::credentials::own_uid;
use crate::edge::files::FileIdentity;
use crate::edge::users;

/// Creates the lock file if it is missing, and locks it. The error is `Locked` if another daemon
/// has locked it.
pub(super) fn lock_exclusively(
    path: &Path,
    directory: &OwnedFd,
    name: &OsStr,
) -> Result<OwnedFd, SocketFileError> {
    let foreign =
        |what: &str| SocketFileError::ForeignLock { path: path.to_owned(), what: what.to_owned() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    loop {
        let lock = match openat(directory, name, flags, mode) {
            Ok(lock) => lock,
            Err(Errno::LOOP) => return Err(foreign("is a symbolic link")),
            Err(errno) => {
                return Err(match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if errno == Errno::ACCESS && stat.st_uid != own_uid() => {
                        foreign(&of_another_user(stat.st_uid))
                    }
                    _ => failed("open the lock file", path)(errno),
                });
            }
        };
        let locked = fstat(&lock).map_err(failed("get the metadata of", path))?;
        if FileType::from_raw_mode(locked.st_mode) != FileType::RegularFile {
            return Err(foreign("is not a regular file"));
        }
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SocketFileError::Locked(path.to_owned())),
            Err(errno) => return Err(failed("lock", path)(errno)),
        }
        if locked.st_uid != own_uid() {
            return Err(foreign(&of_another_user(locked.st_uid)));
        }
        // With another mode, another user could lock the file and keep this daemon from starting.
        if Mode::from_raw_mode(locked.st_mode) != mode {
            fchmod(&lock, mode).map_err(failed("set the mode of", path))?;
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

fn of_another_user(owner: u32) -> String {
    format!("belongs to another user, {}, whose daemon may be running", users::describe(owner))
}
