//! Python publishers that come and go: processes of their own, forked by one that has imported
//! all they need already, and does not reap them when they have ended.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};

use crate::deadline::PATIENCE;
use crate::process::Process;
use crate::python;

/// Forks publishers, and ends them when it is dropped.
pub struct Nursery {
    process: Process,
    started: u64,
}

/// What a publisher is to be.
pub struct Order<'a> {
    /// Its node's name.
    pub node: &'a str,
    /// Where it publishes; for [`Listener::Full`] it finds one itself.
    pub address: &'a str,
    /// What it registers, in this order.
    pub topics: &'a [String],
    /// Who holds the endpoint.
    pub listener: Listener,
    /// Whether it closes its connection to the daemon afterwards.
    pub leaves: bool,
}

/// Who holds a publisher's endpoint.
#[derive(Clone, Copy)]
pub enum Listener {
    /// The publisher, with a PUB socket.
    Own,
    /// Also a child, which does not serve it.
    Silent,
    /// A child, with a PUB socket.
    Served,
    /// The publisher, whose queue of TCP connections is full.
    Full,
    /// Nobody.
    None,
}

/// A publisher that has registered its topics. Its end is the test's or the nursery's matter.
#[derive(Debug)]
pub struct Publisher {
    /// Its process.
    pub pid: Pid,
    /// Where it publishes.
    pub address: String,
    /// How often its REGISTERs were answered with each status.
    pub replies: BTreeMap<String, u64>,
    /// The last answer.
    pub said: String,
}

impl Nursery {
    /// One whose publishers register at this daemon.
    #[must_use]
    pub fn of(discovery: &str) -> Self {
        Self { process: python::spawn("publisher_host.py", &[discovery]), started: 0 }
    }

    /// One in a pid namespace of its own: its publishers' pids mean nothing out here.
    #[must_use]
    pub fn in_own_pid_namespace(discovery: &str) -> Self {
        let script = python::script("publisher_host.py", &[discovery]);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(script.get_program()).args(script.get_args());
        command.envs(script.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { process: Process::spawn(&mut command), started: 0 }
    }

    /// Has the nursery kill a publisher, which may be in its pid namespace.
    pub fn kill(&mut self, publisher: &Publisher) {
        self.process.write_line(&publisher.pid.as_raw_nonzero().to_string());
    }

    /// Starts a publisher of these topics with a PUB socket of its own.
    #[must_use]
    pub fn publisher(&mut self, node: &str, address: &str, topics: &[&str]) -> Publisher {
        let topics: Vec<_> = topics.iter().map(|&name| name.to_owned()).collect();
        let listener = Listener::Own;
        self.start(&Order { node, address, topics: &topics, listener, leaves: false })
    }

    /// Starts a publisher, and waits until it has registered its topics.
    #[must_use]
    pub fn start(&mut self, order: &Order<'_>) -> Publisher {
        let number = self.begin(order);
        self.born(number)
    }

    /// Starts a publisher; its number is for [`born`](Self::born).
    #[must_use]
    pub fn begin(&mut self, order: &Order<'_>) -> u64 {
        self.started += 1;
        let Order { node, address, topics, listener, leaves } = order;
        let listener = match listener {
            Listener::Own => "own",
            Listener::Silent => "silent",
            Listener::Served => "served",
            Listener::Full => "full",
            Listener::None => "none",
        };
        let order = json!({
            "id": self.started,
            "node": node,
            "address": address,
            "topics": topics,
            "listener": listener,
            "leaves": leaves,
        });
        self.process.write_line(&order.to_string());
        self.started
    }

    /// Waits until a publisher has registered its topics.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn born(&self, number: u64) -> Publisher {
        self.process.stdout_line("a publisher has registered its topics", |line| {
            let told: Value = serde_json::from_str(line).unwrap();
            (told["id"] == number).then(|| Publisher {
                pid: Pid::from_raw(told["pid"].as_i64().unwrap().try_into().unwrap()).unwrap(),
                address: told["address"].as_str().unwrap().to_owned(),
                replies: serde_json::from_value(told["replies"].clone()).unwrap(),
                said: told["said"].as_str().unwrap().to_owned(),
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
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut ends, Some(&patience)), Ok(1), "it does not end");
    }

    /// Looks whether all of its REGISTERs were answered with OK.
    ///
    /// # Panics
    /// When one was not.
    pub fn assert_registered(&self) {
        let statuses: Vec<_> = self.replies.keys().map(String::as_str).collect();
        assert_eq!(statuses, ["0"], "{}", self.said);
    }
}
