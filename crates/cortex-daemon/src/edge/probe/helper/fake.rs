//! Helpers for tests, in the test's own process.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::launch::Launch;
use super::message::{Task, take_message};
use super::serve::serve;

/// Serves as a helper process does.
#[derive(Debug)]
pub(in crate::edge::probe) struct InThread;

impl Launch for InThread {
    fn launch(&self, socket: UnixStream) -> io::Result<Option<Child>> {
        std::thread::spawn(move || serve(socket));
        Ok(None)
    }
}

/// Helpers that misbehave, and how many were started.
#[derive(Clone, Debug)]
pub(in crate::edge::probe) struct Broken {
    pub(in crate::edge::probe) fault: Fault,
    pub(in crate::edge::probe) started: Arc<AtomicUsize>,
    sockets: Arc<Mutex<Vec<UnixStream>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge::probe) enum Fault {
    /// It never answers.
    Hangs,
    /// It answers other tasks, and never those whose path contains this.
    HangsAt(&'static str),
    /// The first one ends when it gets a task, later ones serve.
    EndsOnce,
    /// It sends something else.
    TalksNonsense,
    /// It cannot be started.
    IsMissing,
}

impl Broken {
    pub(in crate::edge::probe) fn new(fault: Fault) -> Self {
        Self { fault, started: Arc::default(), sockets: Arc::default() }
    }

    pub(in crate::edge::probe) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }
}

impl Launch for Broken {
    fn launch(&self, socket: UnixStream) -> io::Result<Option<Child>> {
        if self.fault == Fault::IsMissing {
            return Err(io::ErrorKind::NotFound.into());
        }
        let before = self.started.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Hangs | Fault::IsMissing => self.sockets.lock().unwrap().push(socket),
            Fault::EndsOnce if before == 0 => {
                let mut socket = socket;
                std::thread::spawn(move || socket.read(&mut [0; 100]).map(drop));
            }
            Fault::EndsOnce => {
                std::thread::spawn(move || serve(socket));
            }
            Fault::TalksNonsense => {
                let mut socket = socket;
                io::Write::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
                self.sockets.lock().unwrap().push(socket);
            }
            Fault::HangsAt(path) => {
                std::thread::spawn(move || serve_except(socket, path));
            }
        }
        Ok(None)
    }
}

/// Hands all tasks but some to a real helper.
fn serve_except(mut socket: UnixStream, hangs_at: &str) -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    std::thread::spawn(move || serve(theirs));
    let (mut back, mut out) = (ours.try_clone()?, socket.try_clone()?);
    std::thread::spawn(move || io::copy(&mut back, &mut out).map(drop));
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let count = socket.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..count]);
        while let Some(message) = take_message(&mut buffer).unwrap() {
            let (id, task) = Task::decode(&message).unwrap();
            let hangs = matches!(&task, Task::Connect { path } if path.contains(hangs_at));
            if !hangs {
                let mut encoded = Vec::new();
                task.encode(id, &mut encoded);
                io::Write::write_all(&mut ours, &encoded)?;
            }
        }
    }
}
