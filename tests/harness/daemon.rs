//! Real daemons, each at a place of its own.

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

/// How a daemon is to be started.
pub struct DaemonBuilder {
    test_dir: TestDir,
    prelude: String,
    addresses: Vec<String>,
    log_level: Option<String>,
    arguments: Vec<OsString>,
}

impl DaemonBuilder {
    /// At the place's socket, telling all it does.
    #[must_use]
    pub fn at(test_dir: &TestDir) -> Self {
        Self::at_address(test_dir, test_dir.address())
    }

    /// At another address, with the place only for its files.
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

    /// Also on a free TCP port of this host.
    #[must_use]
    pub fn with_tcp(mut self) -> Self {
        self.addresses.push("tcp://127.0.0.1:0".into());
        self
    }

    /// With another log level; `None` leaves it to the daemon.
    #[must_use]
    pub fn log_level(mut self, level: Option<&str>) -> Self {
        self.log_level = level.map(Into::into);
        self
    }

    /// With further arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With `commands` run before, by the shell that then becomes the daemon.
    #[must_use]
    pub fn shell_prelude(mut self, commands: &str) -> Self {
        self.prelude = commands.into();
        self
    }

    /// The command that starts it.
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

    /// Starts the process, without waiting for anything.
    #[must_use]
    pub fn spawn(&self) -> Process {
        Process::spawn_captured(&mut self.command())
    }

    /// Starts it where it is not expected to stay, and waits for its end.
    #[must_use]
    pub fn run(&self) -> ProcessOutput {
        self.spawn().wait()
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
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

/// Waits for the log line that tells which port the daemon took.
fn bound_port(process: &Process, host: &str) -> u16 {
    process.stderr_line("the port that the daemon listens on", |line| {
        let port = line.contains("listening").then(|| line.split_once(&format!("{host}:")))??.1;
        let digits = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
        port[..digits].parse().ok()
    })
}

/// A running daemon that has answered. It is killed when dropped.
pub struct Daemon {
    process: Process,
    test_dir: TestDir,
    addresses: Vec<String>,
}

impl Daemon {
    /// A daemon at a new place's socket.
    #[must_use]
    pub fn start() -> Self {
        DaemonBuilder::at(&TestDir::new()).start()
    }

    /// A daemon on a free TCP port of this host.
    #[must_use]
    pub fn start_tcp() -> Self {
        DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0").start()
    }

    /// The same, and peers over TCP, whom nobody knows, may end it.
    #[must_use]
    pub fn start_tcp_with_remote_shutdown() -> Self {
        let builder = DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0");
        builder.args(["--allow-remote-shutdown"]).start()
    }

    /// The address it serves at (the first, when there are several).
    #[must_use]
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// All addresses it serves at, with the ports it took.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where its files are.
    #[must_use]
    pub fn test_dir(&self) -> &TestDir {
        &self.test_dir
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it as `kill -9` does, so that it can tidy up nothing.
    #[must_use]
    pub fn kill(self) -> ProcessOutput {
        self.process.signal(Signal::KILL);
        self.process.wait()
    }

    /// Waits for its end.
    #[must_use]
    pub fn wait(self) -> ProcessOutput {
        self.process.wait()
    }

    /// Whether it still runs and answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_serves(&self) {
        if let Err(error) = raw_peer::ping(self.address()) {
            panic!("the daemon does not answer: {error}\n{}", self.process.stderr_so_far());
        }
    }

    /// A connection of its own to it.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    pub fn raw_peer(&self) -> RawPeer {
        RawPeer::open(self.address()).unwrap()
    }

    /// How many files it has open, its connections among them.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn open_files(&self) -> usize {
        let pid = self.process.pid().as_raw_nonzero();
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// The processor time it has used.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let pid = self.process.pid().as_raw_nonzero();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Behind the name, which may hold anything, user and system time are the 12th and 13th.
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        // Linux counts it in hundredths of a second.
        Duration::from_millis(10 * ticks)
    }

    /// The memory it has in use, and the most it ever had, in KiB.
    ///
    /// # Panics
    /// When it is gone.
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
