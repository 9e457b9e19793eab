//! Python publishers that come and go: processes of their own, forked by one that has imported
//! all they need already, and does not reap them when they have ended.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};

use crate::deadline::TIMEOUT;
use crate::process::Process;
use crate::python;

/// Forks publishers, and ends them when it is dropped.
pub struct PublisherHost {
    process: Process,
    last_id: u64,
}

/// What a publisher is to be.
pub struct PublisherSpec<'a> {
    /// Its node's name.
    pub node: &'a str,
    /// Where it publishes; for [`Endpoint::FullBacklog`] it finds one itself.
    pub address: &'a str,
    /// What it registers, in this order.
    pub topics: &'a [String],
    /// Who holds the endpoint.
    pub endpoint: Endpoint,
    /// Whether it closes its connection to the daemon afterwards.
    pub disconnects: bool,
}

/// Who holds a publisher's endpoint.
#[derive(Clone, Copy)]
pub enum Endpoint {
    /// The publisher, with a PUB socket.
    OwnSocket,
    /// Also a child, which does not serve it.
    SilentChild,
    /// A child, with a PUB socket.
    ServingChild,
    /// The publisher, whose queue of TCP connections is full.
    FullBacklog,
    /// Nobody.
    Unbound,
}

/// A publisher that has registered its topics. Its end is the test's or the nursery's matter.
#[derive(Debug)]
pub struct Publisher {
    /// Its process.
    pub pid: Pid,
    /// Where it publishes.
    pub address: String,
    /// How often its REGISTERs were answered with each status.
    pub reply_counts: BTreeMap<String, u64>,
    /// The last answer.
    pub last_message: String,
}

impl PublisherHost {
    /// One whose publishers register at this daemon.
    #[must_use]
    pub fn start(discovery: &str) -> Self {
        Self { process: python::spawn("publisher_host.py", &[discovery]), last_id: 0 }
    }

    /// One in a pid namespace of its own: its publishers' pids mean nothing out here.
    #[must_use]
    pub fn start_in_own_pid_namespace(discovery: &str) -> Self {
        let script = python::script("publisher_host.py", &[discovery]);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(script.get_program()).args(script.get_args());
        command.envs(script.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { process: Process::spawn(&mut command), last_id: 0 }
    }

    /// Has the nursery kill a publisher, which may be in its pid namespace.
    pub fn kill(&mut self, publisher: &Publisher) {
        self.process.write_line(&publisher.pid.as_raw_nonzero().to_string());
    }

    /// Starts a publisher of these topics with a PUB socket of its own.
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

    /// Starts a publisher; its id is for [`wait_for_publisher`](Self::wait_for_publisher).
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
    /// When it does not.
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
    /// Sends it a signal.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Kills it, and waits until it is dead with all of its threads. Nobody reaps it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&self) {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).unwrap();
        self.signal(Signal::KILL);
        let timeout = Timespec::try_from(TIMEOUT).unwrap();
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut ends, Some(&timeout)), Ok(1), "it does not end");
    }

    /// Looks whether all of its REGISTERs were answered with OK.
    ///
    /// # Panics
    /// When one was not.
    pub fn assert_registered(&self) {
        let statuses: Vec<_> = self.reply_counts.keys().map(String::as_str).collect();
        assert_eq!(statuses, ["0"], "{}", self.last_message);
    }
}
