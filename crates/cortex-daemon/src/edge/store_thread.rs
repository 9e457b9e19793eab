//! The store's thread. Neither a slow commit nor a file system that hangs stops the event loop.
//!
//! A small commit takes about as long as it takes to wake the event loop. So the loop waits a moment
//! for its result, and only then goes on with other work until the thread wakes it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::now;
use super::processes::Host;
use super::state_file::StoreError;
use super::store::Store;
use crate::registry::{Snapshot, Write};

/// A commit of more changes is not small.
const SMALL_COMMIT: usize = 4;
/// How long the loop waits for a small commit: a few times as long as most of them take.
const SHORT_COMMIT: Duration = Duration::from_micros(300);
/// After a commit that took longer, the loop does not wait for so many others.
const COMMITS_WITHOUT_WAIT: u32 = 50;

/// A job for the store.
pub(crate) enum StoreJob {
    /// Save changes.
    Save(Vec<Write>),
    /// See whether the file can be used.
    Check,
    /// Open the file again and, unless it still has what it had, put this into it.
    Reopen(Snapshot),
}

/// How a job has ended.
pub(crate) enum StoreResult {
    Saved(Result<(), StoreError>),
    Checked(FileState),
    /// Whether the file still had what it had, or has a new history.
    Reopened(Result<ReopenedFile, StoreError>),
}

/// Whether a state file can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    Usable,
    /// It was deleted or replaced: every save fails.
    Lost,
    /// Its disk was full when it was opened: every save fails.
    WithoutSpace,
}

/// A state file that was opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReopenedFile {
    /// Its history goes on.
    Same,
    /// It has the history of this epoch, which begins now.
    New { epoch: u64 },
}

/// A thread that owns the store, and does one job after the other.
pub(crate) struct StoreThread {
    /// `None` while the thread ends.
    jobs: Option<Sender<StoreJob>>,
    results: Receiver<StoreResult>,
    /// Whether the loop must be woken for the next result.
    is_awaited: Arc<AtomicBool>,
    /// The number of commits for which the loop does not wait.
    commits_without_wait: u32,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    /// Starts the thread. It calls `wake` when it has a result that was not taken yet.
    pub(crate) fn start(
        store: Store,
        path: PathBuf,
        host: Host,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, new_jobs) = channel();
        let (send_result, results) = channel();
        let is_awaited = Arc::new(AtomicBool::new(false));
        let must_wake = Arc::clone(&is_awaited);
        let mut worker = Worker { store, path, host };
        let run = move || {
            for job in new_jobs {
                if send_result.send(worker.perform(job)).is_err() {
                    return;
                }
                if must_wake.swap(false, Ordering::SeqCst) {
                    wake();
                }
            }
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(run)?;
        Ok(Self {
            jobs: Some(jobs),
            results,
            is_awaited,
            commits_without_wait: 0,
            thread: Some(thread),
        })
    }

    /// Gives the thread a job. The loop is woken for its result.
    pub(crate) fn begin(&self, job: StoreJob) {
        self.is_awaited.store(true, Ordering::SeqCst);
        self.send(job);
    }

    /// Begins to save changes. Takes the result, if it comes soon.
    ///
    /// # Errors
    /// As [`take_result`](Self::take_result).
    pub(crate) fn save(&mut self, writes: Vec<Write>) -> io::Result<Option<StoreResult>> {
        let is_small = writes.len() <= SMALL_COMMIT;
        self.send(StoreJob::Save(writes));
        if !is_small || self.commits_without_wait > 0 {
            self.commits_without_wait = self.commits_without_wait.saturating_sub(1);
            return self.take_result();
        }
        let end = now() + SHORT_COMMIT;
        while now() < end {
            if let Some(result) = self.poll_result()? {
                return Ok(Some(result));
            }
            std::thread::yield_now();
        }
        self.commits_without_wait = COMMITS_WITHOUT_WAIT;
        self.take_result()
    }

    /// Takes the result of a job, if there is one. If there is none, the loop is woken for it.
    ///
    /// # Errors
    /// When the thread has ended by a panic.
    pub(crate) fn take_result(&self) -> io::Result<Option<StoreResult>> {
        self.is_awaited.store(true, Ordering::SeqCst);
        let result = self.poll_result()?;
        if result.is_some() {
            self.is_awaited.store(false, Ordering::SeqCst);
        }
        Ok(result)
    }

    fn send(&self, job: StoreJob) {
        // If the thread has ended, `take_result` tells.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    fn poll_result(&self) -> io::Result<Option<StoreResult>> {
        match self.results.try_recv() {
            Ok(result) => Ok(Some(result)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                Err(io::Error::other("the thread of the state file has ended"))
            }
        }
    }
}

impl Drop for StoreThread {
    /// Waits for the job under way. Then the file is closed and its lock is released.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Worker {
    store: Store,
    path: PathBuf,
    host: Host,
}

impl Worker {
    fn perform(&mut self, job: StoreJob) -> StoreResult {
        match job {
            StoreJob::Save(writes) => StoreResult::Saved(self.store.save(&writes)),
            StoreJob::Check => StoreResult::Checked(self.check()),
            StoreJob::Reopen(snapshot) => StoreResult::Reopened(self.reopen(&snapshot)),
        }
    }

    fn check(&self) -> FileState {
        if self.store.lacks_space() {
            FileState::WithoutSpace
        } else if self.store.is_lost() {
            FileState::Lost
        } else {
            FileState::Usable
        }
    }

    fn reopen(&mut self, snapshot: &Snapshot) -> Result<ReopenedFile, StoreError> {
        self.store.mark_lost();
        let (mut store, _) = Store::open(&self.path)?;
        let reopened = if store.continues(&self.store) {
            ReopenedFile::Same
        } else {
            store.reset(snapshot, &self.host)?;
            ReopenedFile::New { epoch: snapshot.epoch }
        };
        self.store = store;
        Ok(reopened)
    }
}
