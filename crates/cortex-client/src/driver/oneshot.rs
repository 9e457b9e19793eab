//! The result of one operation, on its way from the driver to its caller.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::state_cell::{StateCell, wake};

/// The driver's end. Dropping it ends the operation with [`Error::Closed`].
#[derive(Debug)]
pub(crate) struct Sender<T> {
    result: Option<Arc<StateCell<Option<Result<T>>>>>,
}

/// The caller's end.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    result: Arc<StateCell<Option<Result<T>>>>,
}

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let result = Arc::new(StateCell::new(None));
    (Sender { result: Some(Arc::clone(&result)) }, Receiver { result })
}

impl<T> Sender<T> {
    /// Sends the result. The caller wakes the task that waits for it, if there is one.
    #[must_use = "the task waits until it is woken"]
    pub(crate) fn send(mut self, result: Result<T>) -> Vec<Waker> {
        self.set(result)
    }

    fn set(&mut self, result: Result<T>) -> Vec<Waker> {
        self.result
            .take()
            .map_or_else(Vec::new, |cell| cell.change_and_wake_later(|slot| *slot = Some(result)))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        wake(self.set(Err(Error::Closed)));
    }
}

impl<T> Receiver<T> {
    /// Waits for the result, at most until this time; `None` is for ever. The driver ends each
    /// operation in time.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Option<Result<T>> {
        self.result.wait(until, Option::take)
    }

    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Result<T>> {
        self.result.poll(cx, Option::take)
    }
}
