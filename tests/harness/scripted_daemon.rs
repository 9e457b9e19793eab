//! A daemon that a test writes the lines for: late, never or nonsense.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use zmq::{Context, ROUTER};

use crate::test_dir::TestDir;

/// A request as it came: whom to answer, and what was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// All frames before the body.
    pub envelope: Vec<Vec<u8>>,
    /// The request's bytes.
    pub body: Vec<u8>,
}

/// What to send, and to whom.
pub struct Reply {
    envelope: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Request {
    /// The answer to this request.
    #[must_use]
    pub fn reply(&self, body: impl Into<Vec<u8>>) -> Reply {
        Reply { envelope: self.envelope.clone(), body: body.into() }
    }
}

/// A scripted daemon; it stops when dropped.
pub struct ScriptedDaemon {
    test_dir: TestDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedDaemon {
    /// Starts one that calls `script` for each request and sends what it says, in that order.
    ///
    /// # Panics
    /// When libzmq refuses.
    #[must_use]
    pub fn start(script: impl FnMut(Request) -> Vec<Reply> + Send + 'static) -> Self {
        Self::start_at(&TestDir::new(), script)
    }

    /// The same at this place's socket.
    ///
    /// # Panics
    /// When libzmq refuses.
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
                // The wait ends by itself only to look at `stopped`.
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

    /// Where it listens.
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
