//! Stores what each batch of the registry changes, and replaces a state file that was deleted.

use std::time::Instant;

use crate::config::State;
use crate::edge::log_limit::LogLimit;
use crate::edge::processes::Host;
use crate::edge::random::random_u64;
use crate::edge::state_file::StoreError;
use crate::edge::store::Store;
use crate::registry::{Effects, Registry, Timestamp};

/// The store, and what [`Store`] needs to recreate the state file.
pub(crate) struct Persistence {
    store: Store,
    state: State,
    host: Host,
    log: LogLimit,
}

impl Persistence {
    pub(crate) fn new(store: Store, state: State, host: Host) -> Self {
        Self { store, state, host, log: LogLimit::new(1) }
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

    /// Closes the state file and releases its lock. Nothing can be saved any more.
    pub(crate) fn close(&mut self) {
        self.store = Store::none();
        self.state = State::None;
    }

    /// If the state file was deleted or replaced, writes everything into a new one. The history is
    /// lost with the old file, so a new epoch begins. Returns whether that has happened.
    pub(crate) fn recreate_if_lost(&mut self, registry: &mut Registry) -> bool {
        let State::File(path) = &self.state else { return false };
        if !self.store.is_lost() {
            return false;
        }
        let epoch = random_u64();
        let snapshot = registry.snapshot(epoch);
        self.store.mark_lost();
        let created = Store::open(path).and_then(|(mut store, _)| {
            store.reset(&snapshot, &self.host)?;
            Ok(store)
        });
        match created {
            Ok(store) => {
                self.store = store;
                registry.reset_history(epoch);
                tracing::warn!("the state file was deleted or replaced: wrote a new one");
                true
            }
            Err(error) => {
                tracing::error!("the state file was deleted or replaced: {error}");
                false
            }
        }
    }

    fn log_failure(&mut self, error: &StoreError, now: Instant) {
        if let Some(suppressed) = self.log.allow(now) {
            tracing::error!(suppressed, "{error}");
        }
    }
}
