//! Stores what each batch of the registry changes, and opens a state file again that was deleted or
//! could not be written.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::edge::log_limit::LogLimit;
use crate::edge::processes::Host;
use crate::edge::random::random_u64;
use crate::edge::state_file::StoreError;
use crate::edge::store::Store;
use crate::registry::{Effects, Registry, Timestamp};

/// The time between two attempts to open a state file on a full disk. An attempt reads the file.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The store, and what [`Store`] needs to recreate the state file.
pub(crate) struct Persistence {
    store: Store,
    /// The state file, if there is one.
    path: Option<PathBuf>,
    host: Host,
    log: LogLimit,
    /// The next attempt to open the state file on a full disk.
    retry_at: Option<Instant>,
}

impl Persistence {
    pub(crate) fn new(store: Store, path: Option<PathBuf>, host: Host) -> Self {
        Self { store, path, host, log: LogLimit::new(1), retry_at: None }
    }

    /// Ends the registry's batch: stores its changes, or rolls them back.
    pub(crate) fn end_batch(&mut self, registry: &mut Registry, now: Timestamp) -> Effects {
        match self.store.save(registry.writes()) {
            Ok(()) => registry.commit(now),
            Err(error) => {
                self.log_failure(&error, now.instant);
                registry.rollback(&error.to_string(), now)
            }
        }
    }

    /// Closes the state file and releases its lock. Nothing is saved any more.
    pub(crate) fn close(&mut self) {
        self.store = Store::none();
        self.path = None;
    }

    /// If the state file was deleted or replaced, or its disk was full at the start, opens it and
    /// writes everything into it. The history is lost with the old file, so a new epoch begins.
    /// Returns whether that has happened.
    pub(crate) fn reopen_if_unusable(&mut self, registry: &mut Registry, now: Instant) -> bool {
        let Some(path) = &self.path else { return false };
        let lacks_space = self.store.lacks_space();
        if lacks_space {
            if now < *self.retry_at.get_or_insert(now + RETRY_INTERVAL) {
                return false;
            }
            self.retry_at = None;
        } else if !self.store.is_lost() {
            return false;
        }
        self.store.mark_lost();
        let (epoch, path) = (random_u64(), path.clone());
        let opened = Store::open(&path).and_then(|(mut store, _)| {
            let is_same = store.continues(&self.store);
            if !is_same {
                store.reset(&registry.snapshot(epoch), &self.host)?;
            }
            Ok((store, is_same))
        });
        let (store, is_same) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.log_failure(&error, now);
                return false;
            }
        };
        self.store = store;
        if lacks_space {
            tracing::info!(path = %path.display(), "the state file can be written again");
        } else {
            tracing::warn!("the state file was deleted or replaced: wrote a new one");
        }
        if !is_same {
            registry.reset_history(epoch);
        }
        !is_same
    }

    fn log_failure(&mut self, error: &StoreError, now: Instant) {
        if let Some(suppressed) = self.log.allow(now) {
            tracing::error!(suppressed, "{error}");
        }
    }
}
