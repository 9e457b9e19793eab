//! Wakes a thread that polls its sockets.

use std::mem;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::unique_endpoint;
use crate::context::{ContextSlot, create_sockets};
use crate::protocol::retry::poll_millis;

/// Wakes the thread that polls the [`WakeSource`], from any thread.
pub(crate) struct Waker {
    /// The process that made it. A forked child must not touch its sockets.
    process: u32,
    socket: Mutex<Option<zmq::Socket>>,
    /// A wake-up is pending: further ones are no-ops.
    is_woken: Arc<AtomicBool>,
}

/// The thread's end of a [`Waker`].
pub(crate) struct WakeSource {
    socket: zmq::Socket,
    is_woken: Arc<AtomicBool>,
    _slot: ContextSlot,
}

impl Waker {
    pub(crate) fn new() -> zmq::Result<(Self, WakeSource)> {
        let (waker, wake_source, slot) =
            create_sockets(|slot| Ok((slot.socket(zmq::PAIR)?, slot.socket(zmq::PAIR)?, slot)))?;
        let endpoint = unique_endpoint();
        for socket in [&wake_source, &waker] {
            socket.set_linger(0)?;
        }
        wake_source.bind(&endpoint)?;
        waker.connect(&endpoint)?;
        let is_woken = Arc::new(AtomicBool::new(false));
        let wake_source =
            WakeSource { socket: wake_source, is_woken: Arc::clone(&is_woken), _slot: slot };
        Ok((
            Self { process: process::id(), socket: Mutex::new(Some(waker)), is_woken },
            wake_source,
        ))
    }

    /// Whether this process is a forked child of the one that made the waker. It has no thread to
    /// wake.
    pub(crate) fn is_in_forked_child(&self) -> bool {
        process::id() != self.process
    }

    /// Wakes the thread, without waiting for it. Queue the work for the thread before.
    pub(crate) fn wake(&self) {
        if self.is_in_forked_child() || self.is_woken.swap(true, Ordering::SeqCst) {
            return;
        }
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = &*socket {
            // A signal may interrupt the send.
            while socket.send("", zmq::DONTWAIT) == Err(zmq::Error::EINTR) {}
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if self.is_in_forked_child() {
            let socket = self.socket.get_mut().unwrap_or_else(PoisonError::into_inner);
            mem::forget(socket.take());
        }
    }
}

impl WakeSource {
    /// Waits for a wake-up, at most `within`.
    pub(crate) fn wait(&self, within: Duration) -> zmq::Result<()> {
        self.socket.poll(zmq::POLLIN, poll_millis(within))?;
        self.clear()
    }

    pub(super) fn poll_item(&self) -> zmq::PollItem<'_> {
        self.socket.as_poll_item(zmq::POLLIN)
    }

    /// Consumes all wake-ups. The thread checks for work afterwards: a later wake-up ends the next
    /// wait.
    pub(super) fn clear(&self) -> zmq::Result<()> {
        loop {
            match self.socket.recv_bytes(zmq::DONTWAIT) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(zmq::Error::EAGAIN) => {
                    self.is_woken.store(false, Ordering::SeqCst);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: usize = 2_000;
        let (waker, wake_source) = Waker::new().unwrap();
        let woken = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    woken.store(round, Ordering::SeqCst);
                    waker.wake();
                }
            });
            while woken.load(Ordering::SeqCst) < ROUNDS {
                let before = woken.load(Ordering::SeqCst);
                let began = Instant::now();
                wake_source.wait(Duration::from_secs(20)).unwrap();
                assert!(began.elapsed() < Duration::from_secs(20), "no wake-up after {before}");
            }
        });
    }
}
