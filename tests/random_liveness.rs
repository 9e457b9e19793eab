//! A random life of nodes and their daemon, against a model that knows which publishers live: see
//! `python/random_liveness.py`.
//!
//! `LIVENESS_SECONDS` and `LIVENESS_SEED` choose another duration and another run.

use std::io::Write as _;
use std::process::Stdio;

use cortex_tests::{binaries, python};

const SECONDS: &str = "20";
const SEED: &str = "1";

#[test]
fn living_publishers_stay_and_dead_ones_go() {
    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (seed, seconds) = (setting("LIVENESS_SEED", SEED), setting("LIVENESS_SECONDS", SECONDS));
    let daemon = binaries::daemon().to_str().unwrap();
    let mut script = python::script("random_liveness.py", &[daemon, &seed, &seconds]);
    let output = script.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let _ = write!(std::io::stderr(), "{text}");
}
