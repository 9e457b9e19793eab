//! Why a state file cannot be loaded.

use std::io;

use rusqlite::ErrorCode;

/// Why the content of a state file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it has version {0}")]
    Newer(i32),
    /// The file system does not support shared memory, which the log needs.
    #[error("SQLite cannot use a write-ahead log for it")]
    NoWriteAheadLog,
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for LoadError {
    /// The file is a state file, so an error in its content means damage. Errors of the system, and
    /// those that may pass, do not.
    fn from(error: rusqlite::Error) -> Self {
        let is_system_error = error.sqlite_error_code().is_some_and(|code| {
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
        if is_system_error { Self::Sqlite(error) } else { Self::Damaged(error.to_string()) }
    }
}

/// Whether SQLite could not create or extend a file. It reports a quota, a limit of file size and
/// the lack of inodes as other errors than a full disk.
pub(super) fn may_be_lack_of_space(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code().is_some_and(|code| {
        matches!(code, ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
    })
}

/// The error of a write.
pub(super) fn write_error(error: rusqlite::Error) -> io::Error {
    if may_be_lack_of_space(&error) {
        io::Error::new(io::ErrorKind::StorageFull, error)
    } else {
        io::Error::other(error)
    }
}

pub(super) fn damaged<T>(what: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError::Damaged(what.into()))
}
