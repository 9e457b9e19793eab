//! Child processes with captured output. None outlives its test.

use std::io::{self, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT};
use signal_hook::flag;

use crate::deadline::{TIMEOUT, eventually};

/// A running child process.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
}

/// How a process exited, and what it wrote.
#[derive(Debug)]
pub struct ProcessOutput {
    /// The exit code, unless a signal ended the process.
    pub code: Option<i32>,
    /// The number of the signal that ended the process.
    pub signal: Option<i32>,
    /// The whole standard output.
    pub stdout: String,
    /// The whole standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `command` and captures each output that is a pipe.
    ///
    /// # Panics
    /// When the command cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        restore_signals_for_children();
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = Capture::of(child.stdout.take());
        let stderr = Capture::of(child.stderr.take());
        Self { child, stdin, stdout, stderr }
    }

    /// Starts `command` with an empty input and captures both outputs.
    #[must_use]
    pub fn spawn_captured(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never: a child's id is positive.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process.
    ///
    /// # Panics
    /// When the process has already exited and was reaped.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// When the process was started without an input, or the input was closed.
    pub fn write_line(&mut self, line: &str) {
        self.try_write_line(line).unwrap();
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When the process has exited.
    ///
    /// # Panics
    /// When the process was started without an input, or the input was closed.
    pub fn try_write_line(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.stdin.as_mut().expect("the process was started with an input");
        writeln!(stdin, "{line}")
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Whether the process has exited. Does not wait.
    ///
    /// # Panics
    /// When `waitpid` fails.
    pub fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Checks that the process still runs.
    ///
    /// # Panics
    /// When it does not. The message contains the standard error.
    pub fn assert_running(&mut self) {
        assert!(
            !self.has_exited(),
            "the process has exited; its standard error:\n{}",
            self.stderr.all()
        );
    }

    /// Closes the input and waits until the process exits.
    ///
    /// # Panics
    /// When the process runs for longer than [`TIMEOUT`].
    #[must_use]
    pub fn wait(mut self) -> ProcessOutput {
        self.stdin = None;
        let status = eventually("the process ends", TIMEOUT, || self.child.try_wait().unwrap());
        ProcessOutput {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }

    /// Waits for a line of its standard output for which `find` returns a value.
    ///
    /// # Panics
    /// When no such line appears within [`TIMEOUT`].
    pub fn stdout_line<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.stdout.line(what, find).unwrap_or_else(|| self.panic_without_line(what))
    }

    /// Waits for a line of its standard error for which `find` returns a value.
    ///
    /// # Panics
    /// When no such line appears within [`TIMEOUT`].
    pub fn stderr_line<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.stderr.line(what, find).unwrap_or_else(|| self.panic_without_line(what))
    }

    /// The standard output so far.
    #[must_use]
    pub fn stdout_so_far(&self) -> String {
        self.stdout.so_far()
    }

    /// The standard error so far.
    #[must_use]
    pub fn stderr_so_far(&self) -> String {
        self.stderr.so_far()
    }

    fn panic_without_line(&self, what: &str) -> ! {
        panic!("no line: {what}\nits standard error:\n{}", self.stderr_so_far())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that runs the tests in the background makes them ignore SIGINT, `nohup` makes them ignore
/// SIGHUP, and children inherit this. A handler in this process makes children start with the
/// default action. The one for SIGINT still ends the tests; the one for SIGHUP does nothing.
fn restore_signals_for_children() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let always = Arc::new(AtomicBool::new(true));
        flag::register_conditional_shutdown(SIGINT, 130, always).unwrap();
        flag::register(SIGHUP, Arc::new(AtomicBool::new(false))).unwrap();
    });
}

/// The text that a thread has read from a pipe, and whether the pipe is closed.
struct Capture {
    text: Arc<(Mutex<(String, bool)>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new((Mutex::new((String::new(), pipe.is_none())), Condvar::new()));
        let thread = pipe.map(|mut pipe| {
            let text = Arc::clone(&text);
            thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    let count = pipe.read(&mut buffer).unwrap_or(0);
                    let mut captured = text.0.lock().unwrap();
                    captured.0.push_str(&String::from_utf8_lossy(&buffer[..count]));
                    captured.1 = count == 0;
                    text.1.notify_all();
                    if count == 0 {
                        return;
                    }
                }
            })
        });
        Self { text, thread }
    }

    fn all(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.so_far()
    }

    fn so_far(&self) -> String {
        self.text.0.lock().unwrap().0.clone()
    }

    fn line<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let (captured, changed) = &*self.text;
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = 0;
        let mut captured = captured.lock().unwrap();
        loop {
            while let Some(length) = captured.0[seen..].find('\n') {
                let line = &captured.0[seen..seen + length];
                seen += length + 1;
                if let Some(found) = find(line) {
                    return Some(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if captured.1 || left == Duration::ZERO {
                return None;
            }
            captured = changed.wait_timeout(captured, left).expect(what).0;
        }
    }
}
