//! State that the driver changes and users wait for, on a thread or with a future.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tracing::warn;

/// A value, and the threads and tasks that wait for it to change. No code of the user runs under its
/// lock.
#[derive(Debug, Default)]
pub(crate) struct StateCell<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State<T> {
    value: T,
    /// The tasks to wake at the next change.
    wakers: Vec<Waker>,
    /// The number of threads that wait. Without any, a change needs no system call.
    threads: usize,
}

impl<T> StateCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            state: Mutex::new(State { value, wakers: Vec::new(), threads: 0 }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the value, or changes it in a way that nobody waits for.
    pub(crate) fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> R {
        access(&mut self.lock().value)
    }

    /// Changes the value and wakes all waiting threads and tasks.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        wake(self.change_and_wake_later(change));
    }

    /// Changes the value and wakes the threads that wait. The caller wakes the tasks.
    #[must_use = "the tasks wait until they are woken"]
    pub(crate) fn change_and_wake_later(&self, change: impl FnOnce(&mut T)) -> Vec<Waker> {
        let (wakers, threads) = {
            let mut state = self.lock();
            change(&mut state.value);
            (mem::take(&mut state.wakers), state.threads)
        };
        if threads > 0 {
            self.changed.notify_all();
        }
        wakers
    }

    /// Waits until `check` gives something, at most until this time; `None` is for ever.
    pub(crate) fn wait<R>(
        &self,
        until: Option<Instant>,
        mut check: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let mut state = self.lock();
        loop {
            if let Some(found) = check(&mut state.value) {
                return Some(found);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            state.threads += 1;
            state = match left {
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.threads -= 1;
        }
    }

    /// Ready as soon as `check` gives something.
    pub(crate) fn poll<R>(
        &self,
        cx: &Context<'_>,
        check: impl FnOnce(&mut T) -> Option<R>,
    ) -> Poll<R> {
        // The user's waker is cloned and dropped outside the lock.
        let waker = cx.waker().clone();
        let mut state = self.lock();
        if let Some(found) = check(&mut state.value) {
            drop(state);
            return Poll::Ready(found);
        }
        match state.wakers.iter().position(|known| known.will_wake(&waker)) {
            Some(_) => drop(state),
            None => state.wakers.push(waker),
        }
        Poll::Pending
    }
}

/// Wakes tasks. An executor's waker may panic, which must not end the driver.
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
            warn!("the waker of a task panicked");
        }
    }
}
