//! Network namespaces: a daemon and another host, with a cable between them.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Process;
use crate::raw_peer::RawPeer;
use crate::report_skipped;

/// The address of the daemon at its end of the cable.
pub const DAEMON: &str = "tcp://10.77.0.1:7400";
/// The other host's address at its end of the cable.
pub const OTHER_HOST: &str = "10.77.0.2";
/// Commands that start a daemon in a new network namespace, with one end of the cable.
pub const IN_OWN_NETWORK: &str = r#"
exec unshare --net sh -e -c '
ip link set lo up
ip link add cut0 type veth peer name cut1
ip address add 10.77.0.1/24 dev cut0
ip link set cut0 up
exec "$0" "$@"' "$0" "$@""#;

/// Whether this process may make networks. Reports a skipped test if not.
#[must_use]
pub fn can_make() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link add cut0 type veth peer name cut1"]);
    let can = command.output().is_ok_and(|output| output.status.success());
    if !can {
        report_skipped("`unshare --net` or `ip link add` does not work here");
    }
    can
}

/// A network namespace, as long as its process lives.
pub struct Network {
    process: Process,
}

impl Network {
    /// The other host, at the other end of the daemon's cable.
    ///
    /// # Panics
    /// When the system refuses it.
    #[must_use]
    pub fn at_the_other_end(daemon: &Process) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo made; exec sleep 600"]);
        let network = Self { process: Process::spawn_captured(&mut command) };
        network.process.stdout_line("the network namespace", |line| (line == "made").then_some(()));
        let pid = network.pid();
        in_network(daemon, &format!("ip link set cut1 netns {pid}"));
        network.run(&format!("ip address add {OTHER_HOST}/24 dev cut1"));
        network.run("ip link set lo up");
        network.run("ip link set cut1 up");
        network
    }

    /// The process id that names the network.
    #[must_use]
    pub fn pid(&self) -> String {
        self.process.pid().as_raw_nonzero().to_string()
    }

    /// Runs a command in this network.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, command: &str) {
        in_network(&self.process, command);
    }

    /// Opens a connection to the daemon from this network.
    #[must_use]
    pub fn connect(&self) -> RawPeer {
        connect_from(&self.process)
    }
}

fn in_network(process: &Process, command: &str) {
    let pid = process.pid().as_raw_nonzero().to_string();
    let mut nsenter = Command::new("nsenter");
    let status = nsenter.args(["--net", "--target", &pid, "sh", "-c", command]).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Opens a connection to the daemon from the network of a process. A socket belongs to the network of
/// the thread that creates it.
///
/// # Panics
/// When the daemon does not accept it.
#[must_use]
pub fn connect_from(process: &Process) -> RawPeer {
    let pid = process.pid().as_raw_nonzero();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(move || {
            let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).unwrap();
            RawPeer::open(DAEMON).unwrap()
        });
        connecting.join().unwrap()
    })
}
