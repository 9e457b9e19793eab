//! Why a state file cannot be loaded.

use rusqlite::ErrorCode;

/// Why a state file's content cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it is of version {0}")]
    Newer(i32),
    /// The file system has no memory that processes can share.
    #[error("it cannot have a write-ahead log")]
    NoWriteAheadLog,
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for LoadError {
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
        if elsewhere { Self::Sqlite(error) } else { Self::Damaged(error.to_string()) }
    }
}

pub(super) fn damaged<T>(what: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError::Damaged(what.into()))
}
