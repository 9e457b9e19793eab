//! The limit of open files of the test process.

use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit. The usual soft limit is too low for a test with
/// hundreds of sockets at both ends.
///
/// # Panics
/// When the system refuses the new limit.
pub fn raise_limit() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    });
}
