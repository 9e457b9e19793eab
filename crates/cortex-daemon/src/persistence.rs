//! Commits what the registry changes, and opens a state file again that was deleted or could not be
//! written.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::edge::log_limit::LogLimit;
use crate::edge::processes::Host;
use crate::edge::random::random_u64;
use crate::edge::state_file::StoreError;
use crate::edge::store::Store;
use crate::edge::store_thread::{FileState, ReopenedFile, StoreJob, StoreResult, StoreThread};
use crate::registry::{Registry, Timestamp};

/// The time between two attempts to open a state file on a full disk. An attempt reads the file.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The state file's thread, and what it has to do.
pub(crate) struct Persistence {
    /// `None` if the daemon keeps topics in memory only.
    file: Option<StateThread>,
    log: LogLimit,
}

/// The thread of a state file.
struct StateThread {
    thread: StoreThread,
    path: PathBuf,
    /// Whether a job is under way: there is one at a time.
    is_busy: bool,
    /// The file must be opened again.
    reopen: Option<FileState>,
    /// The next attempt to open the state file on a full disk.
    retry_at: Option<Instant>,
}

impl Persistence {
    /// Starts the thread of a state file. It calls `wake` when a result is there. Without a path
    /// nothing is stored.
    pub(crate) fn start(
        store: Store,
        path: Option<PathBuf>,
        host: Host,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let start = |path: PathBuf| {
            let thread = StoreThread::start(store, path.clone(), host, wake)?;
            Ok::<_, io::Error>(StateThread {
                thread,
                path,
                is_busy: false,
                reopen: None,
                retry_at: None,
            })
        };
        Ok(Self { file: path.map(start).transpose()?, log: LogLimit::new(1) })
    }

    /// Tells the registry how the commit under way has ended, if it has.
    ///
    /// # Errors
    /// When the thread of the state file has ended.
    pub(crate) fn end_commit(&mut self, registry: &mut Registry, now: Timestamp) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if !file.is_busy {
            return Ok(());
        }
        if let Some(result) = file.thread.take_result()? {
            self.end_job(result, registry, now);
        }
        Ok(())
    }

    fn end_job(&mut self, result: StoreResult, registry: &mut Registry, now: Timestamp) {
        let Some(file) = &mut self.file else { return };
        file.is_busy = false;
        match result {
            StoreResult::Saved(Ok(())) => registry.commit(now),
            StoreResult::Saved(Err(error)) => {
                registry.rollback(&error.to_string(), now);
                // Peers that change something all the time leave no other moment for it.
                file.look_after_file(registry);
                self.log_failure(&error, now.instant);
            }
            StoreResult::Checked(FileState::Usable) => {}
            StoreResult::Checked(state) => file.reopen_later(state, now.instant),
            StoreResult::Reopened(Ok(reopened)) => {
                file.log_reopened();
                if let ReopenedFile::New { epoch } = reopened {
                    registry.reset_history(epoch);
                }
            }
            StoreResult::Reopened(Err(error)) => {
                file.reopen = None;
                self.log_failure(&error, now.instant);
            }
        }
    }

    /// Unless the store is busy, begins to commit what the registry has changed. A commit that takes
    /// no longer than usual also ends here.
    ///
    /// # Errors
    /// When the thread of the state file has ended.
    pub(crate) fn begin_commit(
        &mut self,
        registry: &mut Registry,
        now: Timestamp,
    ) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            registry.begin_commit(now);
            registry.commit(now);
            return Ok(());
        };
        if file.is_busy {
            return Ok(());
        }
        if let Some(writes) = registry.begin_commit(now) {
            file.is_busy = true;
            if let Some(result) = file.thread.save(writes)? {
                self.end_job(result, registry, now);
            }
        } else if file.reopen.is_some() {
            file.look_after_file(registry);
        }
        Ok(())
    }

    /// Whether the store has a job under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.is_busy)
    }

    /// Looks whether the state file can be used. If it was deleted or replaced, or its disk was full
    /// at the start, it is opened again.
    pub(crate) fn check_file(&mut self) {
        if let Some(file) = &mut self.file
            && !file.is_busy
        {
            file.begin(StoreJob::Check);
        }
    }

    /// Waits for the job under way, closes the state file and releases its lock. Nothing is saved any
    /// more.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    fn log_failure(&mut self, error: &StoreError, now: Instant) {
        if let Some(suppressed) = self.log.allow(now) {
            tracing::error!(suppressed, "{error}");
        }
    }
}

impl StateThread {
    fn begin(&mut self, job: StoreJob) {
        self.is_busy = true;
        self.thread.begin(job);
    }

    /// While no change waits: opens the file again if it must be, and else sees whether it must be.
    fn look_after_file(&mut self, registry: &Registry) {
        let job = match self.reopen {
            // The history is lost with the old file, so a new epoch begins.
            Some(_) => StoreJob::Reopen(registry.snapshot(random_u64())),
            None => StoreJob::Check,
        };
        self.begin(job);
    }

    fn reopen_later(&mut self, state: FileState, now: Instant) {
        if state == FileState::WithoutSpace {
            if now < *self.retry_at.get_or_insert(now + RETRY_INTERVAL) {
                return;
            }
            self.retry_at = None;
        }
        self.reopen = Some(state);
    }

    fn log_reopened(&mut self) {
        if self.reopen.take() == Some(FileState::WithoutSpace) {
            tracing::info!(path = %self.path.display(), "the state file can be written again");
        } else {
            tracing::warn!("the state file was deleted or replaced: wrote a new one");
        }
    }
}
