//! The state of a daemon after a kill, a stop, a boot, or the loss of its state file.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, Hold, RequestExt, ResponseExt, Since};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::TIMEOUT;
use cortex_tests::messages::{
    decode_response, hello, register_in_session, register_static, topic, topic_at, topic_names,
};
use cortex_tests::process::Process;
use cortex_tests::publisher_host::{Endpoint, Publisher, PublisherHost, PublisherSpec};
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::{python, report_measurement, report_skipped};
use rustix::process::{Signal, getuid};

/// The longest time from the start of a daemon with 1,000 topics to its first LIST. The requirement
/// is 500 ms; a busy machine gets ten times that.
const MAX_RESTART_TIME: Duration = Duration::from_secs(5);

fn list(peer: &mut RawPeer) -> Vec<String> {
    let list = peer.request(&DiscoveryRequest::list()).unwrap();
    topic_names(&list).into_iter().map(str::to_owned).collect()
}

fn status_of_request(peer: &mut RawPeer, request: &DiscoveryRequest) -> DiscoveryStatus {
    peer.request(request).unwrap().status
}

fn register(peer: &mut RawPeer, name: &str) -> DiscoveryStatus {
    status_of_request(peer, &DiscoveryRequest::register(topic(name, "node")))
}

fn daemon_info(peer: &mut RawPeer) -> ResponseExt {
    peer.request(&hello()).unwrap().ext.unwrap()
}

fn stop(daemon: Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
}

/// Starts a daemon and sends LIST as its first request. Returns the topics, and the time since the
/// start.
fn start_and_list(builder: &DaemonBuilder, test_dir: &TestDir) -> (Process, Vec<String>, Duration) {
    let started = Instant::now();
    let daemon = builder.spawn();
    // No pause: the first reply counts.
    let mut peer = loop {
        if let Ok(peer) = RawPeer::open(&test_dir.address()) {
            break peer;
        }
        assert!(started.elapsed() < TIMEOUT, "no daemon listens");
    };
    let topics = list(&mut peer);
    (daemon, topics, started.elapsed())
}

#[test]
fn the_first_list_after_a_restart_has_exactly_the_topics_of_running_publishers() {
    const PROCESSES: usize = 20;
    const TOPICS_EACH: usize = 50;
    let builder = DaemonBuilder::at(&TestDir::new()).log_level(Some("info"));
    let daemon = builder.start();
    let test_dir = daemon.test_dir().clone();
    let mut host = PublisherHost::start(daemon.address());
    let ids: Vec<_> = (0..PROCESSES)
        .map(|node| {
            let topics: Vec<_> = (0..TOPICS_EACH).map(|n| format!("/{node}/{n}")).collect();
            host.spawn_publisher(&PublisherSpec {
                node: &format!("node_{node}"),
                address: &ipc_address(&test_dir.path(&format!("{node}.sock"))),
                topics: &topics,
                endpoint: Endpoint::OwnSocket,
                disconnects: false,
            })
        })
        .collect();
    let publishers: Vec<_> = ids.into_iter().map(|id| host.wait_for_publisher(id)).collect();
    publishers.iter().for_each(Publisher::assert_registered);
    let before = list(&mut daemon.raw_peer());
    assert_eq!(before.len(), PROCESSES * TOPICS_EACH);

    assert_eq!(daemon.kill().signal, Some(9));
    let (daemon, all, took) = start_and_list(&builder, &test_dir);
    assert_eq!(all, before, "all topics, in order");
    report_measurement(&format!("{} topics at the first LIST, {took:?} from the start", all.len()));
    assert!(took < MAX_RESTART_TIME, "{took:?}");

    daemon.signal(Signal::KILL);
    assert_eq!(daemon.wait().signal, Some(9));
    publishers.iter().step_by(2).for_each(Publisher::kill);
    let (_daemon, living, took) = start_and_list(&builder, &test_dir);
    let lives = |name: &&String| {
        let node: usize = name.split('/').nth(1).unwrap().parse().unwrap();
        node % 2 == 1
    };
    assert_eq!(living, before.iter().filter(lives).cloned().collect::<Vec<_>>());
    report_measurement(&format!(
        "{} topics at the first LIST, {took:?} from the start",
        living.len()
    ));
    assert!(took < MAX_RESTART_TIME, "{took:?}");
}

/// A client that changes topics until the daemon is killed. It keeps the acknowledged topics and
/// the changes without a reply, both in order.
struct WriterClient {
    number: usize,
    /// The number of requests that it sends before it reads a reply.
    pipelined: usize,
    /// Names and addresses of the acknowledged topics, in the order of LIST.
    topics: Vec<(String, String)>,
    unanswered: VecDeque<Change>,
    random: Random,
}

#[derive(Debug)]
struct Change {
    name: String,
    /// The new address of the topic; `None` unregisters it.
    address: Option<String>,
}

/// Reproducible pseudo-random numbers (splitmix64).
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn at_most(&mut self, max: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % (max as u64 + 1)).unwrap()
    }
}

impl WriterClient {
    /// Changes topics as fast as possible until the daemon is killed.
    fn run(&mut self, address: &str, answers: &AtomicUsize) {
        let Ok(mut peer) = RawPeer::open(address) else { return };
        let mut serial = 0;
        loop {
            while self.unanswered.len() <= self.pipelined {
                serial += 1;
                let name = format!("/{}/{}", self.number, self.random.at_most(20));
                let is_removal = self.random.at_most(2) == 0;
                let address = (!is_removal).then(|| format!("ipc:///{serial}"));
                let request = match &address {
                    None => DiscoveryRequest::unregister(&name),
                    Some(address) => DiscoveryRequest::register(topic_at(&name, "node", address)),
                };
                self.unanswered.push_back(Change { name, address });
                if peer.send(&raw_peer::request_message(&request.to_bytes())).is_err() {
                    return;
                }
            }
            let Ok(reply) = peer.read_reply() else { return };
            let change = self.unanswered.pop_front().unwrap();
            let is_there = self.topics.iter().any(|(name, _)| *name == change.name);
            let expected = match change.address {
                None if !is_there => DiscoveryStatus::NotFound,
                _ => DiscoveryStatus::Ok,
            };
            let reply = decode_response(&reply);
            assert_eq!(reply.status, expected, "{}", reply.message);
            apply(&mut self.topics, &change);
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Checks the topics after a restart: all acknowledged changes, and possibly the first of the
    /// changes without a reply. Continues from these topics.
    fn check(&mut self, found: Vec<(String, String)>) {
        let mut possible = self.topics.clone();
        let mut unanswered = self.unanswered.iter();
        while possible != found {
            let Some(change) = unanswered.next() else {
                panic!(
                    "acknowledged: {:#?}\nunanswered: {:#?}\nfound: {found:#?}",
                    self.topics, self.unanswered
                );
            };
            apply(&mut possible, change);
        }
        self.topics = found;
        self.unanswered.clear();
    }
}

fn apply(topics: &mut Vec<(String, String)>, change: &Change) {
    let at = topics.iter().position(|(name, _)| *name == change.name);
    match (at, &change.address) {
        (Some(at), None) => drop(topics.remove(at)),
        (None, None) => {}
        (Some(at), Some(address)) => topics[at].1.clone_from(address),
        (None, Some(address)) => topics.push((change.name.clone(), address.clone())),
    }
}

#[test]
fn acknowledged_changes_survive_a_kill_at_any_moment() {
    const ROUNDS: usize = 50;
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut random = Random(since_1970.subsec_nanos().into());
    report_measurement(&format!("{random:?}"));
    let builder = DaemonBuilder::at(&TestDir::new()).log_level(Some("warning"));
    let mut clients: Vec<_> = [0, 0, 7, 60]
        .into_iter()
        .enumerate()
        .map(|(number, pipelined)| WriterClient {
            number,
            pipelined,
            topics: Vec::new(),
            unanswered: VecDeque::new(),
            random: Random(random.at_most(1 << 30) as u64),
        })
        .collect();
    let (mut epoch, mut revision, mut acknowledged) = (None, 0, 0);
    for round in 0..=ROUNDS {
        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        let list = peer.request(&DiscoveryRequest::list()).unwrap();
        for client in &mut clients {
            let prefix = format!("/{}/", client.number);
            let topics =
                list.topics.iter().filter(|topic| topic.name.as_str().starts_with(&prefix));
            let topics = topics.map(|topic| (topic.name.to_string(), topic.address.clone()));
            client.check(topics.collect());
        }
        let info = daemon_info(&mut peer);
        assert_eq!(*epoch.get_or_insert(info.epoch.unwrap()), info.epoch.unwrap());
        let now = info.revision.unwrap();
        assert!(now >= revision, "the revision went back from {revision} to {now}");
        revision = now;
        if round == ROUNDS {
            break;
        }
        let answers = AtomicUsize::new(0);
        let kill_after = random.at_most(400);
        thread::scope(|scope| {
            for client in &mut clients {
                let (address, answers) = (daemon.address(), &answers);
                scope.spawn(move || client.run(address, answers));
            }
            // No pause: the kill can come at any moment.
            let deadline = Instant::now() + TIMEOUT;
            while answers.load(Ordering::Relaxed) < kill_after {
                assert!(Instant::now() < deadline, "no replies arrive");
                thread::yield_now();
            }
            daemon.signal(Signal::KILL);
        });
        assert_eq!(daemon.wait().signal, Some(9));
        acknowledged += answers.into_inner();
    }
    report_measurement(&format!(
        "{acknowledged} changes acknowledged in {ROUNDS} rounds, revision {revision}"
    ));
}

#[test]
fn a_restart_continues_the_same_history() {
    let builder = DaemonBuilder::at(&TestDir::new());
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    for name in ["/b", "/a", "/c"] {
        assert_eq!(register(&mut peer, name), DiscoveryStatus::Ok);
    }
    let before = daemon_info(&mut peer);
    stop(daemon);
    for ending in [Signal::KILL, Signal::TERM] {
        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        let after = daemon_info(&mut peer);
        assert_eq!((after.epoch, after.revision), (before.epoch, before.revision));
        assert_eq!(list(&mut peer), ["/b", "/a", "/c"]);
        daemon.signal(ending);
        let _ = daemon.wait();
    }
}

#[test]
fn a_kill_at_any_moment_of_a_start_keeps_the_history() {
    let builder = DaemonBuilder::at(&TestDir::new());
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(register(&mut peer, "/x"), DiscoveryStatus::Ok);
    let before = daemon_info(&mut peer);
    assert_eq!(daemon.kill().signal, Some(9));
    for step in 0..60 {
        let process = builder.spawn();
        // A start takes some milliseconds.
        thread::sleep(Duration::from_micros(250 * step));
        process.signal(Signal::KILL);
        let output = process.wait();
        assert_eq!(output.signal, Some(9), "{}", output.stderr);
    }
    let after = daemon_info(&mut builder.start().raw_peer());
    assert_eq!((after.epoch, after.revision), (before.epoch, before.revision));
}

#[test]
fn a_daemon_without_a_state_file_starts_empty() {
    let test_dir = TestDir::new();
    let builder = DaemonBuilder::at(&test_dir).args(["--no-state"]);
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(register(&mut peer, "/x"), DiscoveryStatus::Ok);
    let epoch = daemon_info(&mut peer).epoch;
    stop(daemon);
    assert!(!test_dir.path("state").exists(), "the daemon writes no state");
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(list(&mut peer), [""; 0]);
    assert_ne!(daemon_info(&mut peer).epoch, epoch);
}

/// Lets a daemon find the boot id in a file. `None` if this is not permitted.
fn in_boot(boot_id: &Path, builder: DaemonBuilder) -> Option<DaemonBuilder> {
    let mount =
        format!("mount --bind {} /proc/sys/kernel/random/boot_id", boot_id.to_str().unwrap());
    let mounted =
        std::process::Command::new("unshare").args(["--mount", "sh", "-c", &mount]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        report_skipped("faking another boot needs `unshare --mount` with the right to mount");
        return None;
    }
    Some(builder.shell_prelude(&format!(
        r#"exec unshare --mount sh -c '{mount} && exec "$0" "$@"' "$0" "$@""#
    )))
}

#[test]
fn after_a_boot_only_static_topics_stay_in_a_new_history() {
    let test_dir = TestDir::new();
    let boot_id = test_dir.path("boot_id");
    fs::write(&boot_id, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let builder = DaemonBuilder::at(&test_dir);
    let Some(after_boot) = in_boot(&boot_id, DaemonBuilder::at(&test_dir)) else { return };
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    for request in [
        register_static(topic("/static/b", "node")),
        DiscoveryRequest::register(topic("/process", "node")),
        register_in_session(topic("/session", "node"), "session", 60_000),
        register_static(topic("/static/a", "node")),
    ] {
        assert_eq!(status_of_request(&mut peer, &request), DiscoveryStatus::Ok);
    }
    let before = daemon_info(&mut peer);
    assert_eq!(daemon.kill().signal, Some(9));

    let daemon = after_boot.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(list(&mut peer), ["/static/b", "/static/a"]);
    let after = daemon_info(&mut peer);
    assert_ne!(after.epoch, before.epoch);
    let describe = DiscoveryRequest::lookup("/static/a").with_ext(RequestExt::default());
    let entry = peer.request(&describe).unwrap().ext.unwrap().entry.unwrap();
    assert_eq!(
        (entry.hold, entry.pid),
        (Hold::Static, None),
        "processes of an earlier boot are unknown"
    );
    assert_eq!(
        status_of_request(&mut peer, &DiscoveryRequest::unregister("/static/b")),
        DiscoveryStatus::Ok
    );
    stop(daemon);

    let daemon = after_boot.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(list(&mut peer), ["/static/a"]);
    assert_eq!(daemon_info(&mut peer).epoch, after.epoch, "the same boot continues the history");
}

/// Starts and stops a daemon that leaves a state file with one topic, and no log beside it that matters.
fn create_state_file(test_dir: &TestDir) -> (PathBuf, DaemonBuilder) {
    let path = test_dir.path("topics.db");
    let builder = DaemonBuilder::at(test_dir).args([Path::new("--state"), &path]);
    let daemon = builder.start();
    assert_eq!(register(&mut daemon.raw_peer(), "/x"), DiscoveryStatus::Ok);
    stop(daemon);
    assert_eq!(python::run("checkpoint.py", &[path.to_str().unwrap()]).code, Some(0));
    (path, builder)
}

/// Checks that the daemon does not start, names the reason, and changes no file.
fn assert_rejected_and_unchanged(builder: &DaemonBuilder, path: &Path, words: &[&str]) {
    let before = fs::read(path).unwrap();
    let output = builder.run();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    for word in words.iter().copied().chain([path.to_str().unwrap()]) {
        assert!(output.stderr.contains(word), "`{word}` is not in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert!(fs::read(path).unwrap() == before, "the daemon changed the file");
    let beside = fs::read_dir(path.parent().unwrap()).unwrap();
    let beside = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let added: Vec<_> =
        beside.filter(|name| name.contains("damaged") || name.contains(".new")).collect();
    assert_eq!(added, [""; 0], "the daemon created files");
}

#[test]
fn a_state_file_that_is_a_symbolic_link_is_refused_and_left_alone() {
    let test_dir = TestDir::new();
    let (path, builder) = create_state_file(&test_dir);
    let real = test_dir.path("real.db");
    fs::rename(&path, &real).unwrap();
    symlink(&real, &path).unwrap();
    assert_rejected_and_unchanged(&builder, &path, &["symbolic link"]);
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
}

#[test]
fn a_state_file_of_another_user_is_refused_and_left_alone() {
    if !getuid().is_root() {
        report_skipped("only root can give a file to another user");
        return;
    }
    let (path, builder) = create_state_file(&TestDir::new());
    chown(&path, Some(1000), Some(1000)).unwrap();
    assert_rejected_and_unchanged(&builder, &path, &["another user"]);
    assert_eq!(fs::metadata(&path).unwrap().uid(), 1000);
}

#[test]
fn a_file_that_is_not_a_state_file_is_refused_and_left_alone() {
    for content in [&b"precious"[..], &[0; 4096], b"SQLite format 3\0 of another program"] {
        let test_dir = TestDir::new();
        let (path, builder) = create_state_file(&test_dir);
        fs::write(&path, content).unwrap();
        assert_rejected_and_unchanged(&builder, &path, &["not a file of this daemon"]);
    }
}

#[test]
fn a_state_file_of_a_newer_version_is_refused_and_left_alone() {
    let (path, builder) = create_state_file(&TestDir::new());
    let mut bytes = fs::read(&path).unwrap();
    // The field user_version of SQLite holds the version of the schema.
    assert_eq!(bytes[60..64], [0, 0, 0, 2]);
    bytes[63] = 3;
    fs::write(&path, bytes).unwrap();
    assert_rejected_and_unchanged(&builder, &path, &["version 3", "newer"]);
}

#[test]
fn a_damaged_state_file_is_set_aside_and_the_daemon_starts_empty() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("half of the file is missing", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a page is overwritten", |bytes| bytes[4096..8192].fill(0xee)),
        ("a topic's info is not msgpack", |bytes| {
            let key: &[u8] = b"publisher_node";
            let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
            bytes[at - 1] = 0xc1;
        }),
    ];
    for (what, damage) in damages {
        let test_dir = TestDir::new();
        let (path, builder) = create_state_file(&test_dir);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();

        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        assert_eq!(list(&mut peer), [""; 0], "{what}");
        let aside: PathBuf = daemon.process().stderr_line("the path of the damaged file", |line| {
            let (_, path) = line.split_once("aside=")?;
            line.contains("WARN").then(|| path.split(' ').next().unwrap().into())
        });
        assert!(fs::read(&aside).unwrap() == bytes, "{what}: the damaged file is kept unchanged");
        assert_eq!(register(&mut peer, "/new"), DiscoveryStatus::Ok, "{what}");
        assert_eq!(daemon.kill().signal, Some(9));
        assert_eq!(list(&mut builder.start().raw_peer()), ["/new"], "{what}");
    }
}

#[test]
fn the_daemon_recreates_a_state_file_that_is_deleted() {
    // SQLite keeps the newest changes in the files beside it: without them the state is lost.
    for deleted in [&["", "-wal", "-shm"][..], &[""], &["-wal"], &["-shm"]] {
        check_deleted_state_files(deleted);
    }
}

fn check_deleted_state_files(suffixes: &[&str]) {
    let test_dir = TestDir::new();
    let path = test_dir.path("topics.db");
    let builder = DaemonBuilder::at(&test_dir).args([Path::new("--state"), &path]);
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(register(&mut peer, "/before"), DiscoveryStatus::Ok);
    let epoch = daemon_info(&mut peer).epoch;
    for suffix in suffixes {
        fs::remove_file(test_dir.path(&format!("topics.db{suffix}"))).unwrap();
    }
    let deleted = Instant::now();
    // The daemon refuses changes that it cannot store; acknowledged ones are in the new file.
    let status = register(&mut peer, "/meanwhile");
    assert!(matches!(status, DiscoveryStatus::Ok | DiscoveryStatus::Error), "{status:?}");
    daemon.process().stderr_line("a warning about the deleted file", |line| {
        (line.contains("WARN") && line.contains("deleted")).then_some(())
    });
    let took = deleted.elapsed();
    report_measurement(&format!("a new file after {took:?} without {suffixes:?}"));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(path.exists());
    assert_eq!(register(&mut peer, "/after"), DiscoveryStatus::Ok, "{suffixes:?}");
    let before = list(&mut peer);
    assert_ne!(daemon_info(&mut peer).epoch, epoch, "a new history begins");
    assert_eq!(before.contains(&"/meanwhile".to_owned()), status == DiscoveryStatus::Ok);
    assert_eq!(daemon.kill().signal, Some(9));
    assert_eq!(list(&mut builder.start().raw_peer()), before, "{suffixes:?}");
}

/// The files of a stopped daemon's state.
struct StateFiles {
    path: PathBuf,
}

impl StateFiles {
    const SUFFIXES: [&str; 3] = ["", "-wal", "-tip"];

    fn file(&self, suffix: &str) -> PathBuf {
        format!("{}{suffix}", self.path.display()).into()
    }

    /// Copies the files and gives the copies.
    fn back_up(&self, directory: &Path) -> Self {
        fs::create_dir(directory).unwrap();
        let copy = Self { path: directory.join("copy.db") };
        copy.restore_in_place(self, &Self::SUFFIXES);
        copy
    }

    /// Overwrites files as `cp` does.
    fn restore_in_place(&self, copy: &Self, suffixes: &[&str]) {
        for suffix in suffixes {
            if copy.file(suffix).exists() {
                fs::copy(copy.file(suffix), self.file(suffix)).unwrap();
            } else {
                self.remove(suffix);
            }
        }
    }

    /// Replaces files as `mv` does.
    fn restore_by_rename(&self, copy: &Self, suffixes: &[&str]) {
        for suffix in suffixes.iter().filter(|suffix| copy.file(suffix).exists()) {
            fs::copy(copy.file(suffix), self.file(".moved")).unwrap();
            fs::rename(self.file(".moved"), self.file(suffix)).unwrap();
        }
    }

    fn remove(&self, suffix: &str) {
        let _ = fs::remove_file(self.file(suffix));
    }
}

#[test]
fn a_state_that_was_put_back_begins_a_new_history() {
    type Accident = fn(&StateFiles, &StateFiles);
    let accidents: [(&str, Accident, &[&str]); 6] = [
        (
            "cp of an older copy",
            |files, copy| files.restore_in_place(copy, &["", "-wal"]),
            &["/old"],
        ),
        (
            "mv of an older copy",
            |files, copy| files.restore_by_rename(copy, &["", "-wal"]),
            &["/old"],
        ),
        ("rm of the tip", |files, _| files.remove("-tip"), &["/old", "/new"]),
        (
            "cp of an older copy with its tip",
            |files, copy| files.restore_in_place(copy, &StateFiles::SUFFIXES),
            &["/old"],
        ),
        (
            "mv of an older copy with its tip",
            |files, copy| files.restore_by_rename(copy, &StateFiles::SUFFIXES),
            &["/old"],
        ),
        (
            "rm of all, and cp of an older copy with its tip",
            |files, copy| {
                for suffix in StateFiles::SUFFIXES {
                    files.remove(suffix);
                }
                files.restore_in_place(copy, &StateFiles::SUFFIXES);
            },
            &["/old"],
        ),
    ];
    for (what, accident, expected_topics) in accidents {
        let test_dir = TestDir::new();
        let files = StateFiles { path: test_dir.path("topics.db") };
        let builder = DaemonBuilder::at(&test_dir).args([Path::new("--state"), &files.path]);
        let register = |peer: &mut RawPeer, name: &str| {
            let request = register_static(topic(name, "node"));
            assert_eq!(status_of_request(peer, &request), DiscoveryStatus::Ok, "{what}");
        };
        let daemon = builder.start();
        register(&mut daemon.raw_peer(), "/old");
        stop(daemon);
        let copy = files.back_up(&test_dir.path("backup"));
        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        register(&mut peer, "/new");
        let before = daemon_info(&mut peer);
        stop(daemon);

        accident(&files, &copy);
        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        // Makes as many changes as were lost: their revisions alone would show nothing.
        register(&mut peer, "/other");
        let since = before.epoch.zip(before.revision);
        let since = since.map(|(epoch, revision)| Since { epoch, revision });
        let watch = DiscoveryRequest::watch(RequestExt { since, ..RequestExt::default() });
        let reply = peer.request(&watch).unwrap();
        let topics: Vec<_> = expected_topics.iter().copied().chain(["/other"]).collect();
        assert_eq!(topic_names(&reply), topics, "{what}: a snapshot");
        let reply = reply.ext.unwrap();
        assert_eq!(reply.snapshot, Some(true), "{what}");
        assert_ne!(reply.epoch, before.epoch, "{what}");
        daemon.process().stderr_line("a warning about the new history", |line| {
            (line.contains("WARN") && line.contains("a new history begins")).then_some(())
        });
        assert_eq!(daemon.kill().signal, Some(9));

        let daemon = builder.start();
        let after = daemon_info(&mut daemon.raw_peer());
        assert_eq!(after.epoch, reply.epoch, "{what}: the new history goes on");
    }
}

#[test]
fn a_state_file_of_the_first_version_keeps_its_history() {
    let test_dir = TestDir::new();
    let (path, builder) = create_state_file(&test_dir);
    fs::remove_file(test_dir.path("topics.db-tip")).unwrap();
    let version_1 =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/cortex-daemon/tests/state/v1.db");
    fs::copy(version_1, &path).unwrap();
    // The file's numbers are the largest there are, and leave no room for changes.
    let script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript('''
        UPDATE events SET revision = revision + 100; UPDATE meta SET revision = 99;
        UPDATE topics SET place = 9, revision = 9 WHERE name = '/ä' ''')";
    let status = std::process::Command::new("python3").args(["-c", script]).arg(&path).status();
    assert!(status.unwrap().success());
    // The file names the boot in which it was made; a daemon of that boot keeps everything.
    let boot_id = test_dir.path("boot_id");
    fs::write(&boot_id, "6e9a8a14-62a6-4e0c-8a25-5f0c6ad6e9a8\n").unwrap();
    let Some(builder) = in_boot(&boot_id, builder) else { return };
    for _ in 0..2 {
        let daemon = builder.start();
        let info = daemon_info(&mut daemon.raw_peer());
        assert_eq!(info.epoch, Some(0xfedc_ba98_7654_3210));
        assert!(list(&mut daemon.raw_peer()).contains(&"/ä".to_owned()), "the static topic stays");
        assert_eq!(daemon.kill().signal, Some(9));
    }
}

#[test]
fn two_daemons_do_not_share_a_state_file() {
    let (path, builder) = create_state_file(&TestDir::new());
    let daemon = builder.start();
    let other = DaemonBuilder::at(&TestDir::new()).args([Path::new("--state"), &path]);
    let output = other.run();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains(path.to_str().unwrap()), "{}", output.stderr);
    assert_eq!(register(&mut daemon.raw_peer(), "/y"), DiscoveryStatus::Ok);
}

#[test]
fn the_daemon_does_not_start_without_a_usable_state_file() {
    for (path, expected) in
        [("/proc/no/topics.db", "/proc/no"), ("/dev/null", "/dev/null"), ("/", "/")]
    {
        let test_dir = TestDir::new();
        let output = DaemonBuilder::at(&test_dir).args(["--state", path]).run();
        assert_eq!(output.code, Some(1), "{path}: {}", output.stderr);
        assert!(output.stderr.contains(expected), "{path}: {}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{path}: {}", output.stderr);
        let reasons = output.stderr.matches("(os error").count();
        assert!(reasons <= 1, "the system's reason appears {reasons} times: {}", output.stderr);
        assert!(!test_dir.socket().exists(), "the daemon removes its socket");
    }
}
