//! Rights of other users, and files of other users that the daemon leaves alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{decode_response, topic, topic_names};
use cortex_tests::process::Process;
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::{binaries, hex, report_skipped};
use rustix::process::{Signal, getuid};

/// User ids; the users need not exist.
const USER_A: u32 = 1000;
const USER_B: u32 = 1001;

/// Whether this process can start others as another user. Reports the skipped test if not.
fn can_switch_user() -> bool {
    let can = getuid().is_root();
    if !can {
        report_skipped("only root can be another user");
    }
    can
}

/// A directory that other users can enter.
fn shared_test_dir() -> TestDir {
    let test_dir = TestDir::new();
    fs::set_permissions(test_dir.path(""), Permissions::from_mode(0o755)).unwrap();
    test_dir
}

/// Copies a program to where other users can run it. A child process writes the copy: otherwise a
/// process that starts meanwhile could inherit the file open for writing, and the copy could not
/// be executed.
fn copy_program(test_dir: &TestDir, program: &Path) -> PathBuf {
    let copy = test_dir.path(program.file_name().unwrap().to_str().unwrap());
    if !copy.exists() {
        let copied = Command::new("cp").arg(program).arg(&copy).status().unwrap();
        assert!(copied.success(), "{copied}");
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

/// A peer whose process belongs to another user.
struct OtherUserPeer {
    process: Process,
    replies: usize,
}

impl OtherUserPeer {
    fn start(test_dir: &TestDir, uid: u32) -> Self {
        let program = copy_program(test_dir, Path::new(env!("CARGO_BIN_EXE_raw-peer")));
        let mut command = Command::new(program);
        // This also drops root's groups.
        command.arg(test_dir.address()).current_dir("/").uid(uid).gid(uid);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { process: Process::spawn(&mut command), replies: 0 }
    }

    fn request(&mut self, request: &DiscoveryRequest) -> DiscoveryResponse {
        self.process.write_line(&hex::encode(&request.to_bytes()));
        let mut seen = 0;
        let reply = self.process.stdout_line("a reply", |line| {
            seen += 1;
            (seen > self.replies).then(|| hex::decode(line))
        });
        self.replies += 1;
        decode_response(&reply)
    }

    fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }
}

fn register(name: &str, node: &str) -> DiscoveryRequest {
    DiscoveryRequest::register(topic(name, node))
}

/// Checks that the daemon refused the request, and that the log names the user and the process.
fn assert_refused(daemon: &Daemon, peer: &OtherUserPeer, uid: u32, reply: &DiscoveryResponse) {
    assert_eq!(reply.status, DiscoveryStatus::Error, "{}", reply.message);
    assert!(reply.message.contains(&format!("user {uid}")), "{}", reply.message);
    let line = daemon.process().stderr_line("a warning about the refusal", |line| {
        (line.contains("WARN") && line.contains(&reply.message)).then(|| line.to_owned())
    });
    assert!(line.contains(&format!("uid={uid}")), "{line}");
    assert!(line.contains(&format!("pid={}", peer.pid())), "no pid in: {line}");
}

#[test]
fn another_user_may_look_up_topics_and_change_only_its_own() {
    if !can_switch_user() {
        return;
    }
    let test_dir = shared_test_dir();
    let daemon = DaemonBuilder::at(&test_dir).args(["--socket-mode", "666"]).start();
    let mut root = daemon.raw_peer();
    let mut by_root = |request: DiscoveryRequest| root.request(&request).unwrap();
    assert_eq!(by_root(register("/roots", "root_node")).status, DiscoveryStatus::Ok);

    let mut user_a = OtherUserPeer::start(&test_dir, USER_A);
    assert_eq!(user_a.request(&DiscoveryRequest::ping()).message, "pong");
    let found = user_a.request(&DiscoveryRequest::lookup("/roots"));
    assert_eq!(found.topic_info, Some(topic("/roots", "root_node")));
    assert_eq!(topic_names(&user_a.request(&DiscoveryRequest::list())), ["/roots"]);

    let reply = user_a.request(&DiscoveryRequest::unregister("/roots"));
    assert_refused(&daemon, &user_a, USER_A, &reply);
    let reply = user_a.request(&register("/roots", "root_node"));
    assert_refused(&daemon, &user_a, USER_A, &reply);
    let reply = user_a.request(&DiscoveryRequest::shutdown());
    assert_refused(&daemon, &user_a, USER_A, &reply);
    let reply = user_a.request(&register("/roots", "another_node"));
    assert_eq!(reply.status, DiscoveryStatus::AlreadyExists, "{}", reply.message);

    for name in ["/theirs", "/theirs/too"] {
        assert_eq!(user_a.request(&register(name, "their_node")).status, DiscoveryStatus::Ok);
    }
    assert_eq!(user_a.request(&register("/theirs", "their_node")).status, DiscoveryStatus::Ok);
    let mut user_b = OtherUserPeer::start(&test_dir, USER_B);
    let reply = user_b.request(&DiscoveryRequest::unregister("/theirs"));
    assert_refused(&daemon, &user_b, USER_B, &reply);
    let reply = user_a.request(&DiscoveryRequest::unregister("/theirs"));
    assert_eq!(reply.status, DiscoveryStatus::Ok);
    let reply = by_root(DiscoveryRequest::unregister("/theirs/too"));
    assert_eq!(reply.status, DiscoveryStatus::Ok);
    assert_eq!(topic_names(&by_root(DiscoveryRequest::list())), ["/roots"]);
}

#[test]
fn a_restarted_daemon_knows_the_owner_of_each_topic() {
    if !can_switch_user() {
        return;
    }
    let test_dir = shared_test_dir();
    let builder = DaemonBuilder::at(&test_dir).args(["--socket-mode", "666"]);
    let daemon = builder.start();
    let mut user_a = OtherUserPeer::start(&test_dir, USER_A);
    assert_eq!(user_a.request(&register("/theirs", "their_node")).status, DiscoveryStatus::Ok);
    assert_eq!(daemon.kill().signal, Some(9));

    let daemon = builder.start();
    let mut user_b = OtherUserPeer::start(&test_dir, USER_B);
    let reply = user_b.request(&DiscoveryRequest::unregister("/theirs"));
    assert_refused(&daemon, &user_b, USER_B, &reply);
    let mut user_a_again = OtherUserPeer::start(&test_dir, USER_A);
    assert_eq!(
        user_a_again.request(&DiscoveryRequest::unregister("/theirs")).status,
        DiscoveryStatus::Ok
    );
}

#[test]
fn the_daemons_own_user_and_root_may_shut_it_down() {
    if !can_switch_user() {
        return;
    }
    for by_root in [true, false] {
        let test_dir = shared_test_dir();
        chown(test_dir.path(""), Some(USER_A), Some(USER_A)).unwrap();
        let mut command = Command::new(copy_program(&test_dir, binaries::daemon()));
        command.args(["--address", &test_dir.address(), "--no-state", "--socket-mode", "666"]);
        command.current_dir("/").uid(USER_A).gid(USER_A);
        let daemon = Process::spawn_captured(&mut command);
        eventually("the daemon answers", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
        let refused =
            OtherUserPeer::start(&test_dir, USER_B).request(&DiscoveryRequest::shutdown());
        assert_eq!(refused.status, DiscoveryStatus::Error, "{}", refused.message);
        let reply = if by_root {
            let mut root = RawPeer::open(&test_dir.address()).unwrap();
            root.request(&DiscoveryRequest::shutdown()).unwrap()
        } else {
            OtherUserPeer::start(&test_dir, USER_A).request(&DiscoveryRequest::shutdown())
        };
        assert_eq!(reply.message, "Shutting down");
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn user_65534_is_an_ordinary_user_on_an_ordinary_host() {
    const NOBODY: u32 = 65_534;
    let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap();
    if !can_switch_user() || !uid_map.split_whitespace().eq(["0", "0", "4294967295"]) {
        report_skipped("this user namespace does not map every user");
        return;
    }
    let test_dir = shared_test_dir();
    chown(test_dir.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(copy_program(&test_dir, binaries::daemon()));
    command.args(["--address", &test_dir.address(), "--address", "tcp://127.0.0.1:0"]);
    command.args(["--no-state", "--socket-mode", "666"]);
    command.current_dir("/").uid(NOBODY).gid(NOBODY);
    let daemon = Process::spawn_captured(&mut command);
    let tcp = daemon.stderr_line("the port", |line| {
        line.contains("listening").then(|| Some(line.split_once("tcp://")?.1.to_owned()))?
    });
    eventually("the daemon answers", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());

    let mut nobody = OtherUserPeer::start(&test_dir, NOBODY);
    assert_eq!(nobody.request(&register("/theirs", "node")).status, DiscoveryStatus::Ok);
    let mut by_tcp = RawPeer::open(&format!("tcp://{}", tcp.trim())).unwrap();
    let refused = by_tcp.request(&DiscoveryRequest::unregister("/theirs")).unwrap();
    assert_eq!(refused.status, DiscoveryStatus::Error, "{}", refused.message);
    assert!(refused.message.contains("user 65534"), "{}", refused.message);
    let mut user_b = OtherUserPeer::start(&test_dir, USER_B);
    let refused = user_b.request(&DiscoveryRequest::unregister("/theirs"));
    assert_eq!(refused.status, DiscoveryStatus::Error, "{}", refused.message);

    assert_eq!(nobody.request(&DiscoveryRequest::shutdown()).message, "Shutting down");
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn in_a_user_namespace_users_without_a_number_are_unknown() {
    // Root inside is this user outside; other users have no number there.
    const IN_USER_NAMESPACE: &str = r#"exec unshare --user --map-root-user "$0" "$@""#;
    let works = Command::new("unshare").args(["--user", "--map-root-user", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) || !can_switch_user() {
        report_skipped("`unshare --user` does not work here");
        return;
    }
    let test_dir = shared_test_dir();
    let daemon = DaemonBuilder::at(&test_dir)
        .args(["--socket-mode", "666"])
        .shell_prelude(IN_USER_NAMESPACE)
        .start();
    assert_eq!(
        daemon.raw_peer().request(&register("/roots", "node")).unwrap().status,
        DiscoveryStatus::Ok
    );
    for uid in [USER_A, 65_534] {
        let mut stranger = OtherUserPeer::start(&test_dir, uid);
        let refused = stranger.request(&DiscoveryRequest::unregister("/roots"));
        assert_eq!(refused.status, DiscoveryStatus::Error, "{}", refused.message);
        assert!(refused.message.contains("unknown user"), "{}", refused.message);
        let refused = stranger.request(&DiscoveryRequest::shutdown());
        assert_eq!(refused.status, DiscoveryStatus::Error, "{}", refused.message);
    }
    assert_eq!(
        daemon.raw_peer().request(&DiscoveryRequest::shutdown()).unwrap().message,
        "Shutting down"
    );
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn another_user_gets_at_most_half_of_the_connections() {
    if !can_switch_user() {
        return;
    }
    let test_dir = shared_test_dir();
    let builder =
        DaemonBuilder::at(&test_dir).args(["--socket-mode", "666", "--max-connections", "8"]);
    let daemon = builder.start();
    let mut peers: Vec<_> = (0..6)
        .map(|_| {
            let mut peer = OtherUserPeer::start(&test_dir, USER_A);
            // The daemon may have closed the connection already, and the process may have exited.
            let ping = hex::encode(&DiscoveryRequest::ping().to_bytes());
            let _ = peer.process.try_write_line(&ping);
            peer
        })
        .collect();
    let (mut served, mut closed) = (0, 0);
    eventually("the daemon has served or closed each connection", TIMEOUT, || {
        served = peers.iter().filter(|one| !one.process.stdout_so_far().is_empty()).count();
        closed = peers.iter_mut().filter_map(|one| one.process.has_exited().then_some(())).count();
        (served + closed == 6).then_some(())
    });
    assert_eq!((served, closed), (4, 2));
    daemon.raw_peer().ping().unwrap();
}

#[test]
fn the_socket_has_the_requested_mode_or_the_umask_decides() {
    let mode = |test_dir: &TestDir| fs::metadata(test_dir.socket()).unwrap().mode() & 0o777;
    for mode_option in ["600", "660", "666", "777"] {
        for umask in ["000", "022", "077", "177"] {
            let test_dir = TestDir::new();
            let builder = DaemonBuilder::at(&test_dir)
                .args(["--socket-mode", mode_option])
                .shell_prelude(&format!("umask {umask}"));
            let daemon = builder.start();
            assert_eq!(format!("{:o}", mode(&test_dir)), mode_option, "{umask}");
            // The daemon's own umask stays: it decides about other files.
            let pid = daemon.process().pid().as_raw_nonzero();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(status.contains(&format!("Umask:\t0{umask}\n")), "{status}");
        }
    }
    for (umask, expected) in [("077", 0o700), ("022", 0o755), ("007", 0o770)] {
        let test_dir = TestDir::new();
        let _daemon = DaemonBuilder::at(&test_dir).shell_prelude(&format!("umask {umask}")).start();
        assert_eq!(mode(&test_dir), expected, "{umask}");
    }
    for bad in ["999", "1777", "rw", "", "-1"] {
        let output =
            DaemonBuilder::at(&TestDir::new()).args([format!("--socket-mode={bad}")]).run();
        assert_eq!(output.code, Some(2), "{bad}: {}", output.stderr);
    }
}

#[test]
fn the_socket_has_the_requested_mode_where_the_daemon_can_start_no_thread() {
    // No other process may belong to this user.
    const LONELY_USER: u32 = 54_321;
    if !can_switch_user() {
        return;
    }
    let test_dir = shared_test_dir();
    chown(test_dir.path(""), Some(LONELY_USER), Some(LONELY_USER)).unwrap();
    let user = LONELY_USER.to_string();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 022; exec setpriv --reuid $0 --regid $0 --clear-groups \"$@\""]);
    command.args([&*user, "prlimit", "--nproc=1"]);
    command.arg(copy_program(&test_dir, binaries::daemon()));
    command.args(["--no-state", "--socket-mode", "660", "--address", &test_dir.address()]);
    let daemon = Process::spawn_captured(command.current_dir("/"));
    eventually("the daemon answers", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
    assert_eq!(fs::metadata(test_dir.socket()).unwrap().mode() & 0o777, 0o660);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(status.contains("Umask:\t0022\n"), "{status}");
}

#[test]
fn only_the_owner_can_read_the_lock_and_the_state_file() {
    let test_dir = TestDir::new();
    let state = test_dir.path("topics.db");
    // A killed daemon, or another program of this user, may have left a lock file.
    fs::write(test_dir.lock_file(), "").unwrap();
    fs::set_permissions(test_dir.lock_file(), Permissions::from_mode(0o666)).unwrap();
    let builder = DaemonBuilder::at(&test_dir)
        .args([Path::new("--state"), &state])
        .shell_prelude("umask 000");
    let _daemon = builder.start();
    for path in [&test_dir.lock_file(), &state, &test_dir.path("topics.db-wal")] {
        let mode = fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}: {mode:o}", path.display());
    }
}

/// Checks that the daemon does not start, and that its message names the file and the reason.
fn assert_start_fails(test_dir: &TestDir, path: &Path, word: &str) {
    let output = DaemonBuilder::at(test_dir).run();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    for word in [word, path.to_str().unwrap()] {
        assert!(output.stderr.contains(word), "`{word}` is not in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn a_symbolic_link_in_place_of_the_lock_or_the_socket_is_refused_and_left_alone() {
    let test_dir = TestDir::new();
    let precious = test_dir.path("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, test_dir.lock_file()).unwrap();
    assert_start_fails(&test_dir, &test_dir.lock_file(), "symbolic link");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(fs::symlink_metadata(test_dir.lock_file()).unwrap().is_symlink());

    for target in ["precious", "nowhere", "dead.sock"] {
        let test_dir = TestDir::new();
        drop(UnixListener::bind(test_dir.path("dead.sock")).unwrap());
        fs::write(test_dir.path("precious"), "precious").unwrap();
        symlink(test_dir.path(target), test_dir.socket()).unwrap();
        assert_start_fails(&test_dir, &test_dir.socket(), "not a socket");
        assert!(fs::symlink_metadata(test_dir.socket()).unwrap().is_symlink(), "{target}");
        assert_eq!(fs::read_to_string(test_dir.path("precious")).unwrap(), "precious");
        assert!(!test_dir.path("nowhere").exists());
    }
}

#[test]
fn a_lock_or_a_dead_socket_of_another_user_is_refused_and_left_alone() {
    if !can_switch_user() {
        return;
    }
    let test_dir = TestDir::new();
    fs::write(test_dir.lock_file(), "").unwrap();
    chown(test_dir.lock_file(), Some(USER_A), Some(USER_A)).unwrap();
    assert_start_fails(&test_dir, &test_dir.lock_file(), "another user");
    assert_eq!(fs::metadata(test_dir.lock_file()).unwrap().uid(), USER_A);

    let test_dir = TestDir::new();
    drop(UnixListener::bind(test_dir.socket()).unwrap());
    chown(test_dir.socket(), Some(USER_A), Some(USER_A)).unwrap();
    assert_start_fails(&test_dir, &test_dir.socket(), "another user");
    assert_eq!(fs::metadata(test_dir.socket()).unwrap().uid(), USER_A);
}

#[test]
fn a_directory_of_another_user_is_used_with_a_warning() {
    if !can_switch_user() {
        return;
    }
    let test_dir = TestDir::new();
    chown(test_dir.path(""), Some(USER_A), Some(USER_A)).unwrap();
    let daemon = DaemonBuilder::at(&test_dir).start();
    let line = daemon.process().stderr_line("a warning about the directory", |line| {
        (line.contains("WARN") && line.contains("another user")).then(|| line.to_owned())
    });
    let owner = format!("user {USER_A}");
    for word in [test_dir.path("").to_str().unwrap().trim_end_matches('/'), &owner] {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
    daemon.assert_serves();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_directory_where_only_another_user_may_create_files_is_named_with_its_owner() {
    if !can_switch_user() {
        return;
    }
    let test_dir = shared_test_dir();
    let daemon_program = copy_program(&test_dir, binaries::daemon());
    let directory = test_dir.path("cortex");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(USER_A), Some(USER_A)).unwrap();
    for socket in [directory.join("discovery.sock"), directory.join("new/discovery.sock")] {
        let mut command = Command::new(&daemon_program);
        command.args(["--no-state", "--address", &ipc_address(&socket)]);
        command.current_dir("/").uid(USER_B).gid(USER_B);
        let output = Process::spawn_captured(&mut command).wait();
        assert_eq!(output.code, Some(1), "{}", output.stderr);
        let owner = format!("user {USER_A}");
        for word in [directory.to_str().unwrap(), &owner, "choose another address"] {
            assert!(output.stderr.contains(word), "`{word}` is not in: {}", output.stderr);
        }
    }
}
