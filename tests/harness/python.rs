//! Python peers in a virtual environment that the tests create.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

use crate::binaries::target_directory;
use crate::process::{Process, ProcessOutput};
use crate::test_dir::TestDir;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");

const REQUIREMENTS: &str = "the Python peers need `python3` with its `venv` module (on Debian the \
    packages python3 and python3-venv), and pip must be able to install what \
    tests/python/requirements.txt lists";

/// The command that runs a script of `tests/python/`.
#[must_use]
pub fn script(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    command
        .arg(Path::new(DIRECTORY).join(name))
        .args(arguments)
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("PYTHONPATH");
    command
}

/// Runs a script and waits until it exits.
#[must_use]
pub fn run(name: &str, arguments: &[&str]) -> ProcessOutput {
    Process::spawn_captured(&mut script(name, arguments)).wait()
}

/// Starts a script that runs until its standard input closes.
#[must_use]
pub fn spawn(name: &str, arguments: &[&str]) -> Process {
    let mut command = script(name, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::spawn(&mut command)
}

/// A running `reference_daemon.py`: a daemon with the semantics of the Python reference.
pub struct ReferenceDaemon {
    process: Process,
    test_dir: TestDir,
}

impl ReferenceDaemon {
    /// Starts the daemon at the directory's socket and waits until it listens.
    #[must_use]
    pub fn start(test_dir: &TestDir) -> Self {
        let process = spawn("reference_daemon.py", &[&test_dir.address()]);
        process.stdout_line("it listens", |line| (line == "ready").then_some(()));
        Self { process, test_dir: test_dir.clone() }
    }

    /// The address of its socket.
    #[must_use]
    pub fn address(&self) -> String {
        self.test_dir.address()
    }

    /// Waits until the daemon exits.
    #[must_use]
    pub fn wait(self) -> ProcessOutput {
        self.process.wait()
    }
}

/// The directory of the virtual environment. The first test that needs it creates it in the target
/// directory, once for each version of Python and of the requirements.
fn environment() -> &'static Path {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let requirements = Path::new(DIRECTORY).join("requirements.txt");
        let mut hasher = DefaultHasher::new();
        fs::read_to_string(&requirements).unwrap().hash(&mut hasher);
        checked(Command::new("python3").arg("--version")).hash(&mut hasher);

        let root = target_directory().join("python-env");
        let environment = root.join(format!("{:016x}", hasher.finish()));
        // Other test processes may create it at the same time. Closing the file releases the lock.
        let lock = fs::create_dir_all(&root)
            .and_then(|()| File::create(environment.with_extension("lock")))
            .unwrap_or_else(|error| panic!("cannot write to {}: {error}", root.display()));
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let complete = environment.join("complete");
        if !complete.exists() {
            make(&environment, &requirements);
            File::create(complete).unwrap();
        }
        environment
    })
}

fn make(environment: &Path, requirements: &Path) {
    checked(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment));
    checked(
        Command::new(environment.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--no-input", "--requirement"])
            .arg(requirements),
    );
}

fn checked(command: &mut Command) -> Vec<u8> {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; {REQUIREMENTS}"));
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{command:?} ended with {}; {REQUIREMENTS}\n{stderr}", output.status);
    }
    output.stdout
}
