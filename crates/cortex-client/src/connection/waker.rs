//! Wakes a thread that waits at its sockets.

use std::mem;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::unique_endpoint;
use crate::context::{Place, settle};
use crate::exchange::poll_millis;

/// Rings at a [`Door`], from any thread.
pub(crate) struct Bell {
    /// The process that made it: a forked child must not touch its sockets.
    process: u32,
    socket: Mutex<Option<zmq::Socket>>,
    /// It has rung, and nobody has heard it yet: once is enough.
    is_rung: Arc<AtomicBool>,
}

/// Where the thread hears the [`Bell`].
pub(crate) struct Door {
    socket: zmq::Socket,
    is_rung: Arc<AtomicBool>,
    _place: Place,
}

impl Bell {
    pub(crate) fn new() -> zmq::Result<(Self, Door)> {
        let (bell, door, place) =
            settle(|place| Ok((place.socket(zmq::PAIR)?, place.socket(zmq::PAIR)?, place)))?;
        let endpoint = unique_endpoint();
        for socket in [&door, &bell] {
            socket.set_linger(0)?;
        }
        door.bind(&endpoint)?;
        bell.connect(&endpoint)?;
        let is_rung = Arc::new(AtomicBool::new(false));
        let door = Door { socket: door, is_rung: Arc::clone(&is_rung), _place: place };
        Ok((Self { process: process::id(), socket: Mutex::new(Some(bell)), is_rung }, door))
    }

    /// Whether this process is a forked child of the one that made it: there is no thread to wake.
    pub(crate) fn is_inherited(&self) -> bool {
        process::id() != self.process
    }

    /// Has the thread look; it does not wait for that. What the thread is to find must be there
    /// before.
    pub(crate) fn ring(&self) {
        if self.is_inherited() || self.is_rung.swap(true, Ordering::SeqCst) {
            return;
        }
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = &*socket {
            // A signal may come in between.
            while socket.send("", zmq::DONTWAIT) == Err(zmq::Error::EINTR) {}
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if self.is_inherited() {
            let socket = self.socket.get_mut().unwrap_or_else(PoisonError::into_inner);
            mem::forget(socket.take());
        }
    }
}

impl Door {
    /// Waits until the bell rings, at most for so long.
    pub(crate) fn wait(&self, within: Duration) -> zmq::Result<()> {
        self.socket.poll(zmq::POLLIN, poll_millis(within))?;
        self.silence()
    }

    pub(super) fn poll_item(&self) -> zmq::PollItem<'_> {
        self.socket.as_poll_item(zmq::POLLIN)
    }

    /// Whoever has rung is heard. Afterwards the thread looks: who rings from now on is heard at the
    /// next wait.
    pub(super) fn silence(&self) -> zmq::Result<()> {
        loop {
            match self.socket.recv_bytes(zmq::DONTWAIT) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(zmq::Error::EAGAIN) => {
                    self.is_rung.store(false, Ordering::SeqCst);
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
    fn nobody_rings_in_vain() {
        const ROUNDS: usize = 2_000;
        let (bell, door) = Bell::new().unwrap();
        let rung = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    rung.store(round, Ordering::SeqCst);
                    bell.ring();
                }
            });
            while rung.load(Ordering::SeqCst) < ROUNDS {
                let heard = rung.load(Ordering::SeqCst);
                let began = Instant::now();
                door.wait(Duration::from_secs(20)).unwrap();
                assert!(began.elapsed() < Duration::from_secs(20), "nothing after {heard}");
            }
        });
    }
}
