//! The errors that a daemon ends with.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::edge::listener::ListenError;
use crate::edge::socket_file::SocketFileError;
use crate::startup::StateError;

/// Why a daemon does not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// The daemon cannot listen at an address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The configuration has no address.
    #[error("a daemon needs an address to listen at")]
    NoAddress,
    /// The daemon was asked to stop before it had what another daemon still held.
    #[error("asked to stop while the daemon was starting")]
    Stopped,
    /// The daemon cannot load its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system gives no poll or no pipe.
    #[error("cannot create the daemon's poll and pipe")]
    Poll(#[from] io::Error),
}

impl BindError {
    /// Whether another program listens at the address already.
    #[must_use]
    pub fn is_already_running(&self) -> bool {
        matches!(
            self,
            Self::Listen(
                ListenError::AlreadyRuns { .. }
                    | ListenError::InUse { .. }
                    | ListenError::SocketFile(SocketFileError::Locked(_))
            )
        )
    }
}

/// Why a running daemon ended without a request to stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// The socket file was removed or replaced: clients cannot reach this daemon any more.
    #[error(
        "another program has removed or replaced the socket file {}: clients cannot reach this \
         daemon any more. Start it again when the other program has ended", .0.display()
    )]
    SocketLost(PathBuf),
    /// The system's poll failed.
    #[error("the daemon's poll failed")]
    Poll(#[from] io::Error),
}
