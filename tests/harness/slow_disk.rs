//! A disk whose writes do not end until the test lets them: a library that is preloaded into a
//! daemon holds back its calls of `fsync` and `fdatasync`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::DaemonBuilder;
use crate::deadline::{TIMEOUT, eventually};
use crate::test_dir::TestDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/slow_disk.cpp");

/// A disk that can be made slow.
pub struct SlowDisk {
    library: PathBuf,
    hold: PathBuf,
}

impl SlowDisk {
    /// Compiles the library.
    ///
    /// # Panics
    /// When there is no C++ compiler.
    #[must_use]
    pub fn new(test_dir: &TestDir) -> Self {
        let disk = Self { library: test_dir.path("slow_disk.so"), hold: test_dir.path("hold") };
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", SOURCE, "-o"]).arg(&disk.library);
        let status = command.status();
        let is_built = status.as_ref().is_ok_and(std::process::ExitStatus::success);
        assert!(is_built, "install a C++ compiler: {} ended with {status:?}", compiler.display());
        disk
    }

    /// A daemon whose state file is on this disk.
    #[must_use]
    pub fn daemon_builder(&self, test_dir: &TestDir) -> DaemonBuilder {
        let (library, hold) = (self.library.display(), self.hold.display());
        DaemonBuilder::at(test_dir)
            .shell_prelude(&format!("export LD_PRELOAD='{library}' HOLD_SYNC='{hold}'"))
    }

    /// Lets no write end from now on.
    ///
    /// # Panics
    /// When the test's directory cannot be written to.
    pub fn hold(&self) {
        File::create(&self.hold).expect("the test's directory is writable");
    }

    /// Waits until a write is held back.
    pub fn wait_until_held(&self) {
        eventually("a write to the disk is held back", TIMEOUT, || self.is_holding().then_some(()));
    }

    /// Whether a write is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.held_mark().exists()
    }

    /// Lets all writes end.
    ///
    /// # Panics
    /// When the disk does not hold writes back.
    pub fn release(&self) {
        fs::remove_file(&self.hold).expect("the disk holds writes back");
    }

    fn held_mark(&self) -> PathBuf {
        Path::new(&format!("{}.held", self.hold.display())).to_owned()
    }
}
