//! A test's temporary directory and the paths in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

/// A temporary directory with the paths of a discovery socket and its lock.
#[derive(Clone)]
pub struct TestDir {
    directory: Arc<TempDir>,
}

impl TestDir {
    /// Creates an empty directory.
    ///
    /// # Panics
    /// When the directory cannot be created.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it creates a directory")]
    pub fn new() -> Self {
        Self { directory: Arc::new(tempfile::tempdir().unwrap()) }
    }

    /// The path of a file in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The discovery socket's path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("discovery.sock")
    }

    /// The path of the lock beside the socket.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.path("discovery.sock.lock")
    }

    /// The discovery socket's address.
    #[must_use]
    pub fn address(&self) -> String {
        ipc_address(&self.socket())
    }
}

/// The address of an ipc socket.
#[must_use]
pub fn ipc_address(path: &Path) -> String {
    format!("ipc://{}", path.display())
}
