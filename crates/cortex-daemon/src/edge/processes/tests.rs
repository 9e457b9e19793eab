use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::polled::POLL_INTERVAL;
use super::*;

const FIRST: usize = 1 << 32;
/// Far more than anything here takes, far less than it takes to run into by chance.
const TIMEOUT: Duration = Duration::from_secs(10);

struct ProcessWatcher {
    poll: Poll,
    processes: Processes,
}

impl ProcessWatcher {
    fn new(limit: usize) -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let processes = Processes::new(registry, FIRST..FIRST + (1 << 24), limit);
        Self { poll, processes }
    }

    fn events(&mut self, timeout: Duration) -> Vec<Token> {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(timeout)).unwrap();
        events.iter().map(mio::event::Event::token).collect()
    }

    /// The processes whose exits the next events report.
    fn next_exits(&mut self) -> Vec<Process> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no exit was noticed");
            let tokens = self.events(left);
            let exits: Vec<_> =
                tokens.iter().filter_map(|&token| self.processes.take_exited(token)).collect();
            if !exits.is_empty() {
                return exits;
            }
        }
    }
}

/// A process that runs until the test ends it. Dropping it kills the process.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self::start_program(Path::new("/bin/cat"))
    }

    fn start_program(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its remains stay until it is reaped.
    fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    fn reap(&mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn process_of(watcher: &ProcessWatcher, sleeper: &Sleeper) -> Process {
    watcher.processes.identify(sleeper.pid()).unwrap()
}

#[test]
fn an_exit_is_reported_before_the_process_is_reaped() {
    let mut watcher = ProcessWatcher::new(8);
    let mut sleeper = Sleeper::start();
    let process = process_of(&watcher, &sleeper);
    assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Alive);
    assert!(!watcher.processes.has_exited(process));

    sleeper.kill();
    assert_eq!(watcher.next_exits(), [process]);
    assert!(watcher.processes.pidfds.is_empty());
    assert!(watcher.processes.by_token.is_empty());

    // It is a zombie now, and still has its files in /proc.
    assert_eq!(watcher.processes.identify(sleeper.pid()), Some(process));
    assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Exited);
    assert!(watcher.processes.has_exited(process));
    assert!(watcher.processes.pidfds.is_empty());
}

#[test]
fn a_reaped_process_has_exited_with_any_start_time() {
    let mut watcher = ProcessWatcher::new(8);
    let mut sleeper = Sleeper::start();
    let process = process_of(&watcher, &sleeper);
    sleeper.kill();
    sleeper.reap();
    let late = watcher.processes.identify(sleeper.pid()).unwrap();
    assert_ne!(late, process);
    for process in [process, late] {
        assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Exited);
        assert!(watcher.processes.has_exited(process));
    }
}

#[test]
fn a_process_has_exited_when_another_has_its_pid() {
    let mut watcher = ProcessWatcher::new(8);
    let sleeper = Sleeper::start();
    let now = process_of(&watcher, &sleeper);
    for start_time in [now.start_time - 1, now.start_time + 1, NO_START_TIME] {
        let before = Process { start_time, ..now };
        assert_eq!(watcher.processes.watch(before, Instant::now()), WatchOutcome::Exited);
        assert!(watcher.processes.has_exited(before));
    }
    assert_eq!(watcher.processes.watch(now, Instant::now()), WatchOutcome::Alive);
}

#[test]
fn a_process_has_exited_when_a_thread_has_its_pid() {
    let of_thread = std::thread::spawn(|| {
        let link = std::fs::read_link("/proc/thread-self").unwrap();
        system::pidfd(link.file_name().unwrap().to_str().unwrap().parse().unwrap())
    });
    assert_eq!(of_thread.join().unwrap().err(), Some(PidfdError::Exited));
    assert!(system::pidfd(std::process::id()).is_ok());
}

#[test]
fn a_process_has_one_pidfd_however_often_it_is_watched() {
    let mut watcher = ProcessWatcher::new(8);
    let mut sleeper = Sleeper::start();
    let process = process_of(&watcher, &sleeper);
    for _ in 0..3 {
        assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Alive);
    }
    assert_eq!(watcher.processes.pidfds.len(), 1);
    assert_eq!(process_of(&watcher, &sleeper), process, "from memory");

    sleeper.kill();
    let tokens = watcher.events(TIMEOUT);
    // A check before the event is handled already finds the exit. It does not consume the event.
    assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Exited);
    assert!(watcher.processes.has_exited(process));
    assert_eq!(tokens.len(), 1);
    assert!(watcher.processes.owns(tokens[0]));
    assert_eq!(watcher.processes.take_exited(tokens[0]), Some(process));
    assert_eq!(watcher.processes.take_exited(tokens[0]), None, "the event is late");
}

#[test]
fn events_without_an_exit_have_no_effect() {
    let mut watcher = ProcessWatcher::new(8);
    let sleeper = Sleeper::start();
    let process = process_of(&watcher, &sleeper);
    watcher.processes.watch(process, Instant::now());
    let token = *watcher.processes.by_token.keys().next().unwrap();
    assert_eq!(watcher.processes.take_exited(token), None);
    assert_eq!(watcher.processes.take_exited(Token(FIRST - 1)), None);
    assert!(!watcher.processes.owns(Token(FIRST - 1)));
    assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Alive);
}

#[test]
fn an_unwatched_process_is_not_reported_and_frees_its_place() {
    let mut watcher = ProcessWatcher::new(1);
    let (mut first, second) = (Sleeper::start(), Sleeper::start());
    let processes = [process_of(&watcher, &first), process_of(&watcher, &second)];
    let start = Instant::now();
    for process in processes {
        assert_eq!(watcher.processes.watch(process, start), WatchOutcome::Alive);
    }
    assert!(watcher.processes.polled.contains(processes[1]), "there is one place for a pidfd");
    watcher.processes.unwatch(processes[0]);
    watcher.processes.unwatch(processes[0]);
    assert_eq!(watcher.processes.poll(start + POLL_INTERVAL), []);
    assert!(watcher.processes.pidfds.contains_key(&processes[1]), "it moves to the free place");
    assert_eq!((watcher.processes.polled.len(), watcher.processes.next_deadline()), (0, None));
    first.kill();
    first.reap();
    assert_eq!(watcher.events(Duration::ZERO), []);
}

/// The ways in which a daemon gets no pidfd.
fn watchers_without_pidfds() -> Vec<ProcessWatcher> {
    let mut forbidden = ProcessWatcher::new(8);
    forbidden.processes.open_pidfd = |_| Err(PidfdError::Unavailable);
    let mut few_tokens = ProcessWatcher::new(8);
    few_tokens.processes.tokens = Tokens::new(FIRST..FIRST + 1);
    vec![ProcessWatcher::new(0), forbidden, few_tokens]
}

#[test]
fn without_pidfds_an_exit_is_noticed_within_a_second() {
    for mut watcher in watchers_without_pidfds() {
        let mut sleeper = Sleeper::start();
        let process = process_of(&watcher, &sleeper);
        let start = Instant::now();
        assert_eq!(watcher.processes.watch(process, start), WatchOutcome::Alive);
        assert!(watcher.processes.pidfds.is_empty());
        assert_eq!(watcher.processes.len(), 1);
        assert!(!watcher.processes.has_exited(process));
        assert_eq!(watcher.processes.next_deadline(), Some(start + POLL_INTERVAL));
        assert_eq!(watcher.processes.poll(start + POLL_INTERVAL), [], "it lives");

        sleeper.kill();
        wait_until_zombie(&sleeper);
        assert!(watcher.processes.has_exited(process), "a zombie is dead");
        assert_eq!(watcher.processes.poll(start + POLL_INTERVAL), [], "no look is due");
        assert_eq!(watcher.processes.poll(start + 2 * POLL_INTERVAL), [process]);
        assert_eq!((watcher.processes.len(), watcher.processes.next_deadline()), (0, None));
        sleeper.reap();
        assert_eq!(watcher.processes.watch(process, start), WatchOutcome::Exited);
        assert!(watcher.processes.has_exited(process));
    }
}

#[test]
fn without_pidfds_a_used_pid_is_told_from_the_process_before() {
    for mut watcher in watchers_without_pidfds() {
        let sleeper = Sleeper::start();
        let now = process_of(&watcher, &sleeper);
        let before = Process { start_time: now.start_time - 1, ..now };
        assert_eq!(watcher.processes.watch(before, Instant::now()), WatchOutcome::Exited);
        assert!(watcher.processes.has_exited(before));
    }
}

#[test]
fn without_pidfds_the_look_after_a_kill_comes_soon() {
    let mut watcher = ProcessWatcher::new(0);
    let mut sleeper = Sleeper::start();
    let process = process_of(&watcher, &sleeper);
    let start = Instant::now();
    watcher.processes.watch(process, start);
    assert!(!watcher.processes.is_exiting(process, start));
    assert_eq!(watcher.processes.next_deadline(), Some(start + POLL_INTERVAL));
    sleeper.kill();
    wait_until_zombie(&sleeper);
    assert!(watcher.processes.is_exiting(process, start));
    let due = watcher.processes.next_deadline().unwrap();
    assert!(due < start + POLL_INTERVAL / 10);
    assert_eq!(watcher.processes.poll(due), [process]);
}

/// As a daemon sees the processes of other users with `hidepid`.
#[test]
fn a_pidfd_suffices_where_the_start_time_is_hidden() {
    let mut watcher = ProcessWatcher::new(8);
    let mut sleeper = Sleeper::start();
    let hidden = Process { pid: sleeper.pid(), start_time: HIDDEN_START_TIME };
    assert_eq!(has_ended(hidden), Some(false));
    assert_eq!(watcher.processes.watch(hidden, Instant::now()), WatchOutcome::Alive);
    assert_eq!(watcher.processes.identify(sleeper.pid()), Some(hidden));
    assert!(!watcher.processes.has_exited(hidden));
    sleeper.kill();
    assert_eq!(watcher.next_exits(), [hidden]);
    sleeper.reap();
    assert_eq!(has_ended(hidden), Some(true));
}

#[test]
fn a_zombie_is_no_living_listener() {
    let mut sleeper = Sleeper::start();
    assert_eq!(identify_living(sleeper.pid()), identify(sleeper.pid()));
    sleeper.kill();
    wait_until_zombie(&sleeper);
    let nobody = Process { pid: sleeper.pid(), start_time: NO_START_TIME };
    assert_ne!(identify(sleeper.pid()), Some(nobody));
    assert_eq!(identify_living(sleeper.pid()), Some(nobody));
    sleeper.reap();
    assert_eq!(identify_living(sleeper.pid()), Some(nobody));
}

#[test]
fn a_process_shares_the_network_of_its_parent() {
    let mut watcher = ProcessWatcher::new(8);
    let mut sleeper = Sleeper::start();
    let pid = sleeper.pid();
    assert!(watcher.processes.shares_network(std::process::id()));
    assert!(watcher.processes.shares_network(pid));
    sleeper.kill();
    sleeper.reap();
    assert!(!watcher.processes.shares_network(pid), "unknown");
    watcher.processes.network = None;
    assert!(!watcher.processes.shares_network(std::process::id()), "unknown");
}

fn wait_until_zombie(sleeper: &Sleeper) {
    let start = Instant::now();
    while !system::stat(sleeper.pid()).unwrap().is_zombie {
        assert!(start.elapsed() < TIMEOUT, "it was killed");
        std::thread::yield_now();
    }
}

#[test]
fn pids_that_no_process_can_have_are_unknown() {
    let mut watcher = ProcessWatcher::new(8);
    for pid in [0, 1 << 31, u32::MAX] {
        assert_eq!(watcher.processes.identify(pid), None);
        let process = Process { pid, start_time: 1 };
        assert_eq!(watcher.processes.watch(process, Instant::now()), WatchOutcome::Unseen);
        assert!(!watcher.processes.has_exited(process));
    }
}

#[test]
fn a_program_may_have_any_name() {
    let directory = tempfile::tempdir().unwrap();
    let plain = ProcessWatcher::new(1);
    for name in ["a b", ") (", ") S 1 2 3", "((("] {
        let program = directory.path().join(name);
        std::os::unix::fs::symlink("/bin/cat", &program).unwrap();
        let sleeper = Sleeper::start_program(&program);
        let process = process_of(&plain, &sleeper);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
        assert!(stat.contains(&format!("({name})")), "{stat}");
        let ours = plain.processes.identify(std::process::id()).unwrap().start_time;
        let age = process.start_time - ours;
        assert!(age < 100 * 60 * 60, "{name}: {age} ticks after us");
    }
}

#[test]
fn the_start_time_is_the_22nd_field() {
    let start_time = |stat: &[u8]| system::parse_stat(stat).map(|stat| stat.start_time);
    let rest: Vec<_> = (4..=52).map(|field| field.to_string()).collect();
    let stat = |name: &str| format!("17 ({name}) S {}\n", rest.join(" ")).into_bytes();
    for name in ["cat", "", "a b", ") (", ") R 1 2", "\n", "\u{e4}"] {
        assert_eq!(start_time(&stat(name)), Some(22), "{name:?}");
    }
    let mut not_text = stat("cat");
    not_text[4] = 0xff;
    assert_eq!(start_time(&not_text), Some(22));
    for broken in ["", "17", "17 (cat)", "17 (cat) S 1 2", "17 (cat", ")"] {
        assert_eq!(start_time(broken.as_bytes()), None, "{broken:?}");
    }
}

#[test]
fn the_host_does_not_change() {
    let host = host();
    assert_eq!(host, super::host());
    assert_eq!(host.boot_id.map(|id| id.len()), Some(36));
    let link = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let inode = host.pid_namespace.unwrap();
    assert_eq!(link.to_str(), Some(format!("pid:[{inode}]").as_str()));
}

/// The limit of descriptors is the whole process's: the test runs itself again, alone.
#[test]
fn without_a_descriptor_a_process_is_polled() {
    const ALONE: &str = "CORTEX_TEST_PROCESSES_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return out_of_descriptors();
    }
    let test = "edge::processes::tests::without_a_descriptor_a_process_is_polled";
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test]).env(ALONE, "1").stdout(Stdio::null());
    assert!(again.status().unwrap().success());
}

fn out_of_descriptors() {
    let mut watcher = ProcessWatcher::new(8);
    let sleeper = Sleeper::start();
    let process = process_of(&watcher, &sleeper);
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();

    assert_eq!(watcher.processes.identify(process.pid), None);
    let start = Instant::now();
    assert_eq!(watcher.processes.watch(process, start), WatchOutcome::Alive);
    assert!(watcher.processes.polled.contains(process), "to look at when there is a descriptor");
    assert!(!watcher.processes.has_exited(process));
    taken.pop();
    // Enough for the pidfd, not for the file in /proc.
    assert_eq!(watcher.processes.poll(start + POLL_INTERVAL), []);
    assert!(watcher.processes.polled.contains(process));
    taken.pop();
    assert_eq!(watcher.processes.poll(start + 2 * POLL_INTERVAL), []);
    assert!(watcher.processes.pidfds.contains_key(&process));
}

#[test]
fn a_pending_sigkill_is_seen_among_other_signals() {
    let status =
        |thread: &str, process: &str| format!("Name:\tx\nSigPnd:\t{thread}\nShdPnd:\t{process}\n");
    let (none, kill, others) = ("0000000000000000", "0000000000000100", "fffffffffffffeff");
    assert!(!system::has_pending_sigkill(&status(none, none)));
    assert!(!system::has_pending_sigkill(&status(others, others)));
    assert!(system::has_pending_sigkill(&status(kill, none)));
    assert!(system::has_pending_sigkill(&status(none, kill)));
    assert!(!system::has_pending_sigkill(""));
}

#[test]
fn a_zombie_is_exiting_and_a_living_process_is_not() {
    assert!(!system::is_exiting(std::process::id()));
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let is_exiting = |pid| system::is_exiting(pid);
    let start = Instant::now();
    while !is_exiting(child.id()) {
        assert!(start.elapsed() < Duration::from_secs(10), "it ends by itself");
        std::thread::yield_now();
    }
    child.wait().unwrap();
    assert!(!is_exiting(child.id()), "a reaped process is not exiting any more");
}
