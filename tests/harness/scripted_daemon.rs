//! A fake daemon whose replies the test decides: late, missing, or unreadable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use zmq::{Context, ROUTER};

use crate::test_dir::TestDir;

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    /// All frames before the body; they address the reply.
    pub envelope: Vec<Vec<u8>>,
    /// The request's bytes.
    pub body: Vec<u8>,
}

/// A reply to send.
pub struct Reply {
    envelope: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Request {
    /// A reply to this request.
    #[must_use]
    pub fn reply(&self, body: impl Into<Vec<u8>>) -> Reply {
        Reply { envelope: self.envelope.clone(), body: body.into() }
    }
}

/// A running fake daemon. Dropping it stops it.
pub struct ScriptedDaemon {
    test_dir: TestDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedDaemon {
    /// Starts a daemon that calls `script` for each request and sends the replies that it
    /// returns, in order.
    ///
    /// # Panics
    /// When a libzmq call fails.
    #[must_use]
    pub fn start(script: impl FnMut(Request) -> Vec<Reply> + Send + 'static) -> Self {
        Self::start_at(&TestDir::new(), script)
    }

    /// Starts the daemon at the directory's socket.
    ///
    /// # Panics
    /// When a libzmq call fails.
    #[must_use]
    pub fn start_at(
        test_dir: &TestDir,
        mut script: impl FnMut(Request) -> Vec<Reply> + Send + 'static,
    ) -> Self {
        let context = Context::new();
        let router = context.socket(ROUTER).unwrap();
        router.set_linger(0).unwrap();
        router.bind(&test_dir.address()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // The timeout only lets the loop check `stopped`.
                if router.poll(zmq::POLLIN, 20).unwrap() == 0 {
                    continue;
                }
                let mut envelope = router.recv_multipart(0).unwrap();
                let body = envelope.pop().unwrap();
                for Reply { mut envelope, body } in script(Request { envelope, body }) {
                    envelope.push(body);
                    router.send_multipart(envelope, 0).unwrap();
                }
            }
        });
        Self { test_dir: test_dir.clone(), stop, thread: Some(thread) }
    }

    /// The address of its socket.
    #[must_use]
    pub fn address(&self) -> String {
        self.test_dir.address()
    }
}

impl Drop for ScriptedDaemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(joined.is_ok() || thread::panicking(), "the script panicked");
        }
    }
}
