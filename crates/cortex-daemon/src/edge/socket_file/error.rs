//! Why the daemon cannot create its socket file.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::edge::credentials::own_uid;
use crate::edge::users;

/// Why the daemon cannot create its socket file.
#[derive(Debug, Error)]
pub enum SocketFileError {
    /// Another daemon listens there.
    #[error("a daemon already runs at ipc://{}", path.display())]
    AlreadyRuns {
        /// The socket file.
        path: PathBuf,
        /// The other daemon's process, if the system tells.
        pid: Option<u32>,
    },
    /// Another daemon has locked the path for more than 1 s, and does not listen there.
    #[error(
        "another daemon has locked {}, but does not listen there: wait until it has ended, or stop \
         it", .0.display()
    )]
    Locked(PathBuf),
    /// The path leads to a file that is not a socket.
    #[error(
        "{} is not a socket, so the daemon does not replace it. Remove it, or choose another \
         address", .0.display()
    )]
    NotASocket(PathBuf),
    /// The socket belongs to another user, and no daemon listens there.
    #[error(
        "the unused socket {} belongs to another user, {}, so the daemon does not replace it. \
         Remove it, or choose another address", path.display(), users::describe(*owner)
    )]
    ForeignSocket {
        /// The socket file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The lock file was not created by a daemon of this user.
    #[error("the lock file {} {what}: remove it, or choose another address", path.display())]
    ForeignLock {
        /// The lock file.
        path: PathBuf,
        /// The reason, such as "is a symbolic link".
        what: String,
    },
    /// The daemon has no permission, because the directory belongs to another user.
    #[error(
        "cannot {what} {}: the directory {} belongs to another user, {}. Remove it as that user, \
         let this user create files in it, or choose another address",
        path.display(), directory.display(), users::describe(*owner)
    )]
    ForeignDirectory {
        /// The operation, such as "open the lock file".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// The directory's owner.
        owner: u32,
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

/// Makes an error of an operation on a file. If the file's directory belongs to another user, the
/// error says so.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> SocketFileError {
    let path = path.to_owned();
    move |errno| {
        if matches!(errno, Errno::ACCESS | Errno::PERM)
            && let Some((directory, owner)) = foreign_directory(&path)
        {
            return SocketFileError::ForeignDirectory { what, path, directory, owner };
        }
        SocketFileError::System { what, path, source: errno.into() }
    }
}

/// The nearest directory above a file that exists, and its owner, if that is another user.
fn foreign_directory(file: &Path) -> Option<(PathBuf, u32)> {
    let existing = |path: &Path| Some((path.to_owned(), rustix::fs::stat(path).ok()?.st_uid));
    let (directory, owner) = file.ancestors().skip(1).find_map(existing)?;
    (owner != own_uid()).then_some((directory, owner))
}
