//! Starts Python publishers quickly. One Python process, the publisher host, imports all modules
//! and then forks a process for each publisher. It does not reap publishers that exit.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};

use crate::deadline::TIMEOUT;
use crate::network::Network;
use crate::process::Process;
use crate::python;

/// The process that forks publishers. Dropping it ends all of them.
pub struct PublisherHost {
    process: Process,
    last_id: u64,
}

/// The properties of a publisher to start.
pub struct PublisherSpec<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// The address of its endpoint; ignored for [`Endpoint::FullBacklog`], which uses a free port.
    pub address: &'a str,
    /// The topics that it registers, in this order.
    pub topics: &'a [String],
    /// Which process listens at the endpoint.
    pub endpoint: Endpoint,
    /// Whether it closes its connection to the daemon after the registration.
    pub disconnects: bool,
}

/// Which process listens at a publisher's endpoint.
#[derive(Clone, Copy)]
pub enum Endpoint {
    /// The publisher serves it with a PUB socket.
    OwnSocket,
    /// A child inherits the listening socket and does not serve it.
    SilentChild,
    /// A child inherits the socket, listens, and serves it with a PUB socket.
    ServingChild,
    /// The publisher listens over TCP with a full backlog and accepts no connection.
    FullBacklog,
    /// No process listens.
    Unbound,
}

/// A publisher that has registered its topics. It runs until the test or the host ends it.
#[derive(Debug)]
pub struct Publisher {
    /// Its process.
    pub pid: Pid,
    /// The address of its endpoint.
    pub address: String,
    /// For each status, the number of REGISTERs that it answered.
    pub reply_counts: BTreeMap<String, u64>,
    /// The message of the last reply.
    pub last_message: String,
}

impl PublisherHost {
    /// Starts a host whose publishers register at this daemon.
    #[must_use]
    pub fn start(discovery: &str) -> Self {
        Self { process: python::spawn("publisher_host.py", &[discovery]), last_id: 0 }
    }

    /// Starts a host in a new pid namespace. The pids of its publishers are not valid outside it.
    #[must_use]
    pub fn start_in_own_pid_namespace(discovery: &str) -> Self {
        let options = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        Self::start_with(discovery, &options)
    }

    /// Starts a host in a new network namespace, which has only loopback addresses.
    #[must_use]
    pub fn start_in_own_network_namespace(discovery: &str) -> Self {
        let set_up = r#"ip link set lo up; exec "$0" "$@""#;
        Self::start_with(discovery, &["unshare", "--net", "sh", "-c", set_up])
    }

    /// Starts a host in this network.
    #[must_use]
    pub fn start_in(network: &Network, discovery: &str) -> Self {
        Self::start_with(discovery, &["nsenter", "--net", "--target", &network.pid()])
    }

    /// Starts a host with a program that runs the command that follows its options.
    fn start_with(discovery: &str, wrapper: &[&str]) -> Self {
        let script = python::script("publisher_host.py", &[discovery]);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]);
        command.arg(script.get_program()).args(script.get_args());
        command.envs(script.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { process: Process::spawn(&mut command), last_id: 0 }
    }

    /// Kills a publisher through the host, which also works in another pid namespace.
    pub fn kill(&mut self, publisher: &Publisher) {
        self.process.write_line(&publisher.pid.as_raw_nonzero().to_string());
    }

    /// Starts a publisher with its own PUB socket, and waits until it has registered its topics.
    #[must_use]
    pub fn start_publisher(&mut self, node: &str, address: &str, topics: &[&str]) -> Publisher {
        let topics: Vec<_> = topics.iter().map(|&name| name.to_owned()).collect();
        let endpoint = Endpoint::OwnSocket;
        self.start_publisher_with(&PublisherSpec {
            node,
            address,
            topics: &topics,
            endpoint,
            disconnects: false,
        })
    }

    /// Starts a publisher, and waits until it has registered its topics.
    #[must_use]
    pub fn start_publisher_with(&mut self, spec: &PublisherSpec<'_>) -> Publisher {
        let id = self.spawn_publisher(spec);
        self.wait_for_publisher(id)
    }

    /// Starts a publisher and returns its id for [`Self::wait_for_publisher`].
    #[must_use]
    pub fn spawn_publisher(&mut self, spec: &PublisherSpec<'_>) -> u64 {
        self.last_id += 1;
        let PublisherSpec { node, address, topics, endpoint, disconnects } = spec;
        let endpoint = match endpoint {
            Endpoint::OwnSocket => "own_socket",
            Endpoint::SilentChild => "silent_child",
            Endpoint::ServingChild => "serving_child",
            Endpoint::FullBacklog => "full_backlog",
            Endpoint::Unbound => "unbound",
        };
        let spec = json!({
            "id": self.last_id,
            "node": node,
            "address": address,
            "topics": topics,
            "endpoint": endpoint,
            "disconnects": disconnects,
        });
        self.process.write_line(&spec.to_string());
        self.last_id
    }

    /// Waits until a publisher has registered its topics.
    ///
    /// # Panics
    /// When it does not register them within [`TIMEOUT`].
    #[must_use]
    pub fn wait_for_publisher(&self, id: u64) -> Publisher {
        self.process.stdout_line("a publisher has registered its topics", |line| {
            let report: Value = serde_json::from_str(line).unwrap();
            (report["id"] == id).then(|| Publisher {
                pid: Pid::from_raw(report["pid"].as_i64().unwrap().try_into().unwrap()).unwrap(),
                address: report["address"].as_str().unwrap().to_owned(),
                reply_counts: serde_json::from_value(report["reply_counts"].clone()).unwrap(),
                last_message: report["last_message"].as_str().unwrap().to_owned(),
            })
        })
    }
}

impl Publisher {
    /// Sends a signal to the publisher.
    ///
    /// # Panics
    /// When the process does not exist.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Kills the publisher and waits until all of its threads have ended. It stays a zombie.
    ///
    /// # Panics
    /// When it does not end within [`TIMEOUT`].
    pub fn kill(&self) {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).unwrap();
        self.signal(Signal::KILL);
        let timeout = Timespec::try_from(TIMEOUT).unwrap();
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut ends, Some(&timeout)), Ok(1), "it does not end");
    }

    /// Checks that all REGISTERs were answered with OK.
    ///
    /// # Panics
    /// When one had another status.
    pub fn assert_registered(&self) {
        let statuses: Vec<_> = self.reply_counts.keys().map(String::as_str).collect();
        assert_eq!(statuses, ["0"], "{}", self.last_message);
    }
}
