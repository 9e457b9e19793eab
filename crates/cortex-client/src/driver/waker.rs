//! Wakes the driver's thread while it polls its sockets.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes the thread that has the [`WakeSource`], from any thread of the same process.
#[derive(Debug)]
pub(super) struct ThreadWaker {
    socket: UnixStream,
    is_polling: Arc<AtomicBool>,
}

/// The thread's end of a [`ThreadWaker`].
#[derive(Debug)]
pub(super) struct WakeSource {
    socket: UnixStream,
    is_polling: Arc<AtomicBool>,
}

impl ThreadWaker {
    pub(super) fn new() -> io::Result<(Self, WakeSource)> {
        let (sender, receiver) = UnixStream::pair()?;
        for socket in [&sender, &receiver] {
            socket.set_nonblocking(true)?;
        }
        let is_polling = Arc::new(AtomicBool::new(false));
        let source = WakeSource { socket: receiver, is_polling: Arc::clone(&is_polling) };
        Ok((Self { socket: sender, is_polling }, source))
    }

    /// Wakes the thread, if it polls or is about to. Queue the work for the thread before.
    pub(super) fn wake(&self) {
        if self.is_polling.swap(false, Ordering::SeqCst) {
            // A full buffer holds enough wake-ups. A signal may interrupt the write.
            while let Err(error) = (&self.socket).write(&[0])
                && error.kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

impl WakeSource {
    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Call this before the last look for work. A later wake-up ends the poll.
    pub(super) fn begin_poll(&self) {
        self.is_polling.store(true, Ordering::SeqCst);
    }

    /// From here on the thread looks for work by itself.
    pub(super) fn end_poll(&self, is_readable: bool) {
        self.is_polling.store(false, Ordering::SeqCst);
        if is_readable {
            // Each poll has one wake-up, and a late one of an earlier poll.
            let _ = (&self.socket).read(&mut [0; 16]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: usize = 20_000;
        let (waker, source) = ThreadWaker::new().unwrap();
        let work = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    work.store(round, Ordering::SeqCst);
                    waker.wake();
                }
            });
            let mut done = 0;
            while done < ROUNDS {
                source.begin_poll();
                let found = work.load(Ordering::SeqCst);
                let timeout = if found == done { 20_000 } else { 0 };
                let mut items = [zmq::PollItem::from_fd(source.fd(), zmq::POLLIN)];
                let ready = zmq::poll(&mut items, timeout).unwrap();
                assert!(ready > 0 || timeout == 0, "no wake-up after round {done}");
                source.end_poll(ready > 0);
                done = found;
            }
        });
    }
}
