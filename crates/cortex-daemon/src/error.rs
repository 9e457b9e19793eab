//! Why a daemon does not start, or does not go on.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::edge::listener::ListenError;
use crate::startup::StateError;

/// Why a daemon does not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// An address cannot be listened at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is nowhere to listen.
    #[error("a daemon needs an address to listen at")]
    NoAddress,
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system refused something else.
    #[error("cannot set up the daemon's poll and pipe")]
    Poll(#[from] io::Error),
}

impl BindError {
    /// Whether somebody serves at the address already.
    #[must_use]
    pub fn is_already_running(&self) -> bool {
        matches!(self, Self::Listen(ListenError::AlreadyRuns(_) | ListenError::InUse(_)))
    }
}

/// Why a daemon ended, other than because it was asked to.
#[derive(Debug, Error)]
pub enum RunError {
    /// Another program has taken the socket's place: no client can reach this daemon any more.
    #[error(
        "the socket file {} was removed or replaced by another program: nobody can reach this \
         daemon any more. Start it again when the other program has ended", .0.display()
    )]
    SocketLost(PathBuf),
    /// The system failed us.
    #[error("the daemon's poll failed")]
    Poll(#[from] io::Error),
}
