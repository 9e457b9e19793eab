//! The project's executables. The first test that needs one builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

struct Binaries {
    daemon: PathBuf,
    cli: PathBuf,
}

/// The daemon, `cortex-discovery`.
#[must_use]
pub fn daemon() -> &'static Path {
    &binaries().daemon
}

/// The command line, `cortex`.
#[must_use]
pub fn cli() -> &'static Path {
    &binaries().cli
}

/// Cargo's target directory.
///
/// # Panics
/// When the test's executable is not in a target directory.
#[must_use]
pub fn target_directory() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let deps = executable.ancestors().find(|path| path.ends_with("deps"));
    deps.and_then(|deps| deps.parent()?.parent()).expect("a test lies in target/*/deps").to_owned()
}

/// `cargo test` does not build binaries of other packages, so one could be missing or outdated.
/// Each test process therefore runs `cargo build` once.
fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let messages = build(&["--package=cortex-daemon", "--package=cortex-cli"]);
        let find = |name| find(&messages, "bin", name);
        Binaries { daemon: find("cortex-discovery"), cli: find("cortex") }
    })
}

/// The processes of `tests/hazards`: those of the environment variable `CORTEX_HAZARDS`, if it is
/// set, for example of a build with other flags.
#[must_use]
pub fn hazards() -> PathBuf {
    let set = std::env::var_os("CORTEX_HAZARDS").map(PathBuf::from);
    set.unwrap_or_else(|| find(&build(&["--package=cortex-hazards"]), "bin", "cortex-hazards"))
}

/// An example of `cortex-client`.
#[must_use]
pub fn client_example(name: &str) -> PathBuf {
    find(&build(&["--package=cortex-client", "--example", name]), "example", name)
}

fn find(messages: &[Value], kind: &str, name: &str) -> PathBuf {
    let executable = messages.iter().find_map(|message| {
        let is_match = message["target"]["name"] == name
            && message["target"]["kind"].as_array()?.contains(&Value::from(kind));
        is_match.then(|| message["executable"].as_str())?
    });
    PathBuf::from(executable.unwrap_or_else(|| panic!("cargo built no `{name}`")))
}

fn build(arguments: &[&str]) -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .arg("build")
        .args(arguments)
        .args(["--message-format=json", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "cargo could not build the binaries: {}", output.status);
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}
