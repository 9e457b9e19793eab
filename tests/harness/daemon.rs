//! Daemon processes, each with its own temporary directory.

use std::ffi::OsString;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::binaries;
use crate::deadline::{TIMEOUT, eventually};
use crate::process::{Process, ProcessOutput};
use crate::raw_peer::{self, RawPeer};
use crate::test_dir::TestDir;

/// The options with which a daemon process starts.
pub struct DaemonBuilder {
    test_dir: TestDir,
    prelude: String,
    addresses: Vec<String>,
    log_level: Option<String>,
    arguments: Vec<OsString>,
}

impl DaemonBuilder {
    /// Serves at the directory's discovery socket with the log level `debug`.
    #[must_use]
    pub fn at(test_dir: &TestDir) -> Self {
        Self::at_address(test_dir, test_dir.address())
    }

    /// Serves at another address; the directory only holds the state file.
    #[must_use]
    pub fn at_address(test_dir: &TestDir, address: impl Into<String>) -> Self {
        Self {
            test_dir: test_dir.clone(),
            prelude: String::new(),
            addresses: vec![address.into()],
            log_level: Some("debug".into()),
            arguments: Vec::new(),
        }
    }

    /// Also serves on a free TCP port of this host.
    #[must_use]
    pub fn with_tcp(mut self) -> Self {
        self.addresses.push("tcp://127.0.0.1:0".into());
        self
    }

    /// Sets the log level; `None` leaves the choice to the daemon.
    #[must_use]
    pub fn log_level(mut self, level: Option<&str>) -> Self {
        self.log_level = level.map(Into::into);
        self
    }

    /// Adds command-line arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Runs `commands` in a shell, which then replaces itself with the daemon.
    #[must_use]
    pub fn shell_prelude(mut self, commands: &str) -> Self {
        self.prelude = commands.into();
        self
    }

    /// The command that starts the daemon.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = if self.prelude.is_empty() {
            Command::new(binaries::daemon())
        } else {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{}\nexec \"$0\" \"$@\"", self.prelude));
            shell.arg(binaries::daemon());
            shell
        };
        command
            .args(self.addresses.iter().flat_map(|address| ["--address", address]))
            .args(self.log_level.iter().flat_map(|level| ["--log-level", level]))
            .args(&self.arguments)
            .env("XDG_STATE_HOME", self.test_dir.path("state"))
            .env_remove("STATE_DIRECTORY")
            .env_remove("CORTEX_DISCOVERY_ADDRESS")
            .env_remove("RUST_LOG")
            .env_remove("NO_COLOR");
        command
    }

    /// Starts the process without waiting for an answer.
    #[must_use]
    pub fn spawn(&self) -> Process {
        Process::spawn_captured(&mut self.command())
    }

    /// Starts a daemon that is expected to exit, and waits until it does.
    #[must_use]
    pub fn run(&self) -> ProcessOutput {
        self.spawn().wait()
    }

    /// Starts the daemon and waits until it answers at each address.
    ///
    /// # Panics
    /// When the daemon exits or does not answer.
    #[must_use]
    pub fn start(&self) -> Daemon {
        let mut process = self.spawn();
        let addresses: Vec<_> = self
            .addresses
            .iter()
            .map(|address| match address.strip_suffix(":0") {
                Some(host) => format!("{host}:{}", bound_port(&process, host)),
                None => address.clone(),
            })
            .collect();
        for address in &addresses {
            eventually(&format!("a daemon answers at {address}"), TIMEOUT, || {
                process.assert_running();
                raw_peer::ping(address).ok()
            });
        }
        Daemon { process, test_dir: self.test_dir.clone(), addresses }
    }
}

/// Waits for the log line with the port that the daemon listens on.
fn bound_port(process: &Process, host: &str) -> u16 {
    process.stderr_line("the port that the daemon listens on", |line| {
        let port = line.contains("listening").then(|| line.split_once(&format!("{host}:")))??.1;
        let digits = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
        port[..digits].parse().ok()
    })
}

/// A running daemon that has answered. Dropping it kills the process.
pub struct Daemon {
    process: Process,
    test_dir: TestDir,
    addresses: Vec<String>,
}

impl Daemon {
    /// Starts a daemon at the socket of a new directory.
    #[must_use]
    pub fn start() -> Self {
        DaemonBuilder::at(&TestDir::new()).start()
    }

    /// Starts a daemon on a free TCP port of this host.
    #[must_use]
    pub fn start_tcp() -> Self {
        DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0").start()
    }

    /// Starts a daemon on a free TCP port that accepts SHUTDOWN over TCP.
    #[must_use]
    pub fn start_tcp_with_remote_shutdown() -> Self {
        let builder = DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0");
        builder.args(["--allow-remote-shutdown"]).start()
    }

    /// The first address that the daemon serves.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// All addresses that the daemon serves, with the actual ports.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The directory of its files.
    #[must_use]
    pub fn test_dir(&self) -> &TestDir {
        &self.test_dir
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills the daemon as `kill -9` does, so that it cannot clean up.
    #[must_use]
    pub fn kill(self) -> ProcessOutput {
        self.process.signal(Signal::KILL);
        self.process.wait()
    }

    /// Waits until the daemon exits.
    #[must_use]
    pub fn wait(self) -> ProcessOutput {
        self.process.wait()
    }

    /// Checks that the daemon still answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_serves(&self) {
        if let Err(error) = raw_peer::ping(self.address()) {
            panic!("the daemon does not answer: {error}\n{}", self.process.stderr_so_far());
        }
    }

    /// Opens a new connection to the daemon.
    ///
    /// # Panics
    /// When the connection or the handshake fails.
    #[must_use]
    pub fn raw_peer(&self) -> RawPeer {
        RawPeer::open(self.address()).unwrap()
    }

    /// The number of its open files, connections included.
    ///
    /// # Panics
    /// When the daemon has exited.
    #[must_use]
    pub fn open_files(&self) -> usize {
        let pid = self.process.pid().as_raw_nonzero();
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// The processor time that the daemon has used.
    ///
    /// # Panics
    /// When the daemon has exited.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let pid = self.process.pid().as_raw_nonzero();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // After the name, which may contain spaces, user and system time are fields 12 and 13.
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        // Linux counts in hundredths of a second.
        Duration::from_millis(10 * ticks)
    }

    /// The memory that the daemon uses now, and its peak, in KiB.
    ///
    /// # Panics
    /// When the daemon has exited.
    #[must_use]
    pub fn memory_kib(&self) -> (u64, u64) {
        let pid = self.process.pid().as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}
