//! The store against a naive model, and against everything that can happen to its file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cortex_proto::{TopicInfo, TopicName};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tempfile::TempDir;

use super::database::{Content, read};
use super::rows::read_events;
use super::*;
use crate::peer::{EndpointListener, Process};
use crate::registry::{Event, EventKind, EvictionReason, Hold, Record};

/// The content of a state file, the history apart.
type StoredState = (Option<(Snapshot, Host)>, Vec<(TopicName, Event)>);

impl Store {
    /// The open file, if the store has one.
    fn opened(&self) -> Option<&OpenStateFile> {
        if let Backend::File(open) = &self.0 { Some(open) } else { None }
    }
}

fn stored(store: &Store) -> StoredState {
    let content = store.opened().and_then(|open| read(&open.connection, &PRESENT).unwrap());
    apart(content.map(|content| {
        let Content { snapshot, host, .. } = content;
        LoadedState { snapshot, host, history_loss: None }
    }))
}

/// Separates the history from the rest.
fn apart(loaded: Option<LoadedState>) -> StoredState {
    let Some(LoadedState { mut snapshot, host, .. }) = loaded else { return (None, Vec::new()) };
    let history = std::mem::take(&mut snapshot.history);
    (Some((snapshot, host)), history)
}

/// Opens the file, reads it and closes it.
fn reopened(path: &Path) -> StoredState {
    let (_store, loaded) = Store::open(path).unwrap();
    apart(loaded)
}

const ALL_FILES: [&str; 3] = ["", "-wal", "-tip"];

/// The content of the store's files.
fn backup(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = ALL_FILES.into_iter().map(|suffix| beside(path, suffix));
    files.filter_map(|file| Some((file.clone(), fs::read(file).ok()?))).collect()
}

/// Writes the content into the same files.
fn write_in_place(backup: &[(PathBuf, Vec<u8>)]) {
    for (file, content) in backup {
        fs::write(file, content).unwrap();
    }
}

/// Ends a store as a kill of its process does, and opens the file again.
fn killed(store: Store, path: &Path) -> (Store, LoadedState) {
    let left = backup(path);
    drop(store);
    write_in_place(&left);
    let (store, loaded) = Store::open(path).unwrap();
    let loaded = loaded.unwrap();
    assert_eq!(loaded.history_loss, None);
    (store, loaded)
}

/// The state that a daemon would load if this one were killed now.
fn after_kill(path: &Path) -> StoredState {
    let directory = TempDir::new().unwrap();
    reopened(&copied(path, directory.path()))
}

/// Closes a store, and lets SQLite move everything from its log into the file.
fn close_without_log(store: Store, path: &Path) {
    drop(store);
    // The last connection that closes removes the log.
    shell(path, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(!beside(path, "-wal").exists());
}

fn copied(path: &Path, directory: &Path) -> PathBuf {
    let copy = directory.join("copy.db");
    for suffix in ["", "-wal"] {
        let from = beside(path, suffix);
        if from.exists() {
            fs::copy(from, beside(&copy, suffix)).unwrap();
        }
    }
    copy
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn packed(name: &TopicName, node: &str) -> Arc<[u8]> {
    let info = TopicInfo {
        name: name.clone(),
        address: format!("ipc:///tmp/cortex{name}.sock"),
        message_type: "sensor/Image".into(),
        fingerprint: u64::MAX,
        publisher_node: node.into(),
    };
    info.to_bytes().into()
}

fn record(text: &str, revision: u64) -> Record {
    let name = name(text);
    Record {
        order: revision,
        packed: packed(&name, "node"),
        revision,
        changed_ms: revision.wrapping_add(1_700_000_000_000),
        uid: Some(1000),
        process: Some(Process { pid: 4711, start_time: 123_456 }),
        is_local: true,
        listener: None,
        hold: Hold::Process,
        found_alive: true,
        name,
    }
}

fn registered(text: &str, revision: u64) -> Write {
    let record = record(text, revision);
    let packed = Arc::clone(&record.packed);
    let event = Event { revision, kind: EventKind::Registered, packed };
    Write { name: record.name.clone(), record: Some(record), event: Some(event) }
}

fn removed(text: &str, revision: u64) -> Write {
    let name = name(text);
    let packed = packed(&name, "node");
    let event = Event { revision, kind: EventKind::Unregistered, packed };
    Write { name, record: None, event: Some(event) }
}

fn batch(topics: std::ops::Range<u64>, revision: u64) -> Vec<Write> {
    topics
        .zip(revision..)
        .map(|(topic, revision)| registered(&format!("/{topic}"), revision))
        .collect()
}

fn host() -> Host {
    Host { boot_id: Some("7d1a".into()), pid_namespace: Some(4_026_531_836) }
}

fn empty(epoch: u64) -> Snapshot {
    Snapshot { epoch, ..Snapshot::default() }
}

/// A new store with an epoch.
fn new_store() -> (TempDir, PathBuf, Store) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state.db");
    let (mut store, loaded) = Store::open(&path).unwrap();
    assert_eq!(loaded, None);
    store.reset(&empty(7), &host()).unwrap();
    (directory, path, store)
}

fn sentence(path: &Path) -> String {
    match Store::open(path) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => {
            let sentence = error.to_string();
            assert!(sentence.contains(path.file_name().unwrap().to_str().unwrap()), "{sentence}");
            sentence
        }
    }
}

/// The renamed damaged files, without the additional files of SQLite.
fn set_aside(path: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}.damaged-", path.display());
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut aside: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().starts_with(&prefix))
        .filter(|path| !path.to_str().unwrap().ends_with(|last: char| last.is_alphabetic()))
        .collect();
    aside.sort();
    aside
}

fn shell(connection: &Path, sql: &str) {
    SqliteConnection::open(connection).unwrap().execute_batch(sql).unwrap();
}

mod model {
    use super::*;

    #[derive(Clone, Debug)]
    struct TopicChange {
        topic: usize,
        is_removed: bool,
        /// The kind of its event, if it has one.
        event: Option<usize>,
        hold: Hold,
        uid: Option<u32>,
        process: Option<Process>,
        is_local: bool,
        listener: Option<EndpointListener>,
        found_alive: bool,
        number: u64,
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Save(Vec<TopicChange>),
        SaveHost(Host, Vec<TopicChange>),
        Reset { epoch: u64, revision: u64, host: Host },
        Reopen,
        Kill,
    }

    const NAMES: [&str; 6] = ["/a", "/A", "/ä", "/a\u{308}", "a\0b", "☃"];

    fn hold() -> impl Strategy<Value = Hold> {
        prop_oneof![
            Just(Hold::Process),
            Just(Hold::Static),
            ("[a-zé\"']{0,8}", any::<u64>())
                .prop_map(|(id, lease_ms)| Hold::Session { id, lease_ms }),
        ]
    }

    fn process() -> impl Strategy<Value = Process> {
        (1..u32::MAX, any::<u64>()).prop_map(|(pid, start_time)| Process { pid, start_time })
    }

    fn listener() -> impl Strategy<Value = EndpointListener> {
        prop_oneof![
            process().prop_map(EndpointListener::Process),
            any::<u64>().prop_map(EndpointListener::Socket)
        ]
    }

    fn change() -> impl Strategy<Value = TopicChange> {
        let flags: [_; 3] = std::array::from_fn(|_| any::<bool>());
        let owner = (any::<Option<u32>>(), option::of(process()), option::of(listener()));
        let event = option::of(0..6_usize);
        let what = (0..NAMES.len(), event, hold(), owner, any::<u64>());
        (flags, what).prop_map(|(flags, (topic, event, hold, owner, number))| {
            let [is_removed, found_alive, is_local] = flags;
            let (uid, process, listener) = owner;
            TopicChange {
                topic,
                is_removed,
                event,
                hold,
                uid,
                process,
                is_local,
                listener,
                found_alive,
                number,
            }
        })
    }

    fn host() -> impl Strategy<Value = Host> {
        let boot_id = option::of("[0-9a-f-]{0,36}");
        (boot_id, any::<Option<u64>>())
            .prop_map(|(boot_id, pid_namespace)| Host { boot_id, pid_namespace })
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let revision = prop_oneof![
            Just(0),
            Just(MAX_HISTORY_EVENTS - 3),
            Just(i64::MAX.cast_unsigned() - 3),
            Just(u64::MAX - 200)
        ];
        prop_oneof![
            6 => vec(change(), 0..6).prop_map(Operation::Save),
            1 => (host(), vec(change(), 0..3))
                .prop_map(|(host, changes)| Operation::SaveHost(host, changes)),
            1 => (any::<u64>(), revision, host())
                .prop_map(|(epoch, revision, host)| Operation::Reset { epoch, revision, host }),
            1 => Just(Operation::Reopen),
            1 => Just(Operation::Kill),
        ]
    }

    #[derive(Default)]
    struct Model {
        epoch: u64,
        revision: u64,
        host: Host,
        topics: BTreeMap<TopicName, Record>,
        events: Vec<(TopicName, Event)>,
    }

    impl Model {
        fn write(&mut self, change: TopicChange) -> Write {
            const REMOVALS: [EventKind; 4] = [
                EventKind::Unregistered,
                EventKind::Evicted(EvictionReason::OwnerExited),
                EventKind::Evicted(EvictionReason::LeaseExpired),
                EventKind::Evicted(EvictionReason::EndpointDead),
            ];
            let name = name(NAMES[change.topic]);
            let packed = packed(&name, &change.number.to_string());
            // What is there changes with an event only.
            let must_be_event = change.is_removed || !self.topics.contains_key(&name);
            let event = change.event.or(must_be_event.then_some(0)).map(|kind| {
                self.revision += 1;
                let kind = match (change.is_removed, kind % 2) {
                    (true, _) => REMOVALS[kind % REMOVALS.len()],
                    (false, 0) => EventKind::Registered,
                    (false, _) => EventKind::Updated,
                };
                Event { revision: self.revision, kind, packed: Arc::clone(&packed) }
            });
            self.events.extend(event.clone().map(|event| (name.clone(), event)));
            let record = (!change.is_removed).then(|| Record {
                name: name.clone(),
                order: change.number,
                packed,
                revision: self.revision,
                changed_ms: change.number,
                uid: change.uid,
                process: change.process,
                is_local: change.is_local,
                listener: change.listener,
                hold: change.hold,
                found_alive: change.found_alive,
            });
            match &record {
                Some(record) => self.topics.insert(name.clone(), record.clone()),
                None => self.topics.remove(&name),
            };
            Write { name, record, event }
        }

        fn snapshot(&self) -> Snapshot {
            let mut records: Vec<_> = self.topics.values().cloned().collect();
            records.sort_by_key(|record| record.order);
            Snapshot { epoch: self.epoch, revision: self.revision, records, history: Vec::new() }
        }

        fn stored(&self) -> StoredState {
            (Some((self.snapshot(), self.host.clone())), self.events.clone())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

        #[test]
        fn the_file_holds_what_a_map_and_a_list_hold(operations in vec(operation(), 1..30)) {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("state.db");
            let mut store = Store::open(&path).unwrap().0;
            let mut model = Model::default();
            store.reset(&model.snapshot(), &model.host).unwrap();
            for operation in operations {
                match operation {
                    Operation::Save(changes) => {
                        let writes: Vec<_> =
                            changes.into_iter().map(|change| model.write(change)).collect();
                        store.save(&writes).unwrap();
                    }
                    Operation::SaveHost(host, changes) => {
                        model.host = host;
                        let writes: Vec<_> =
                            changes.into_iter().map(|change| model.write(change)).collect();
                        store.save_host(&model.host, &writes).unwrap();
                    }
                    Operation::Reset { epoch, revision, host } => {
                        model.epoch = epoch;
                        model.revision = revision;
                        model.host = host;
                        model.events.clear();
                        store.reset(&model.snapshot(), &model.host).unwrap();
                    }
                    Operation::Reopen => {
                        drop(store);
                        let (reopened, loaded) = Store::open(&path).unwrap();
                        prop_assert_eq!(loaded.unwrap().history_loss, None);
                        store = reopened;
                    }
                    Operation::Kill => store = killed(store, &path).0,
                }
                prop_assert_eq!(stored(&store), model.stored());
            }
            drop(store);
            prop_assert_eq!(reopened(&path), model.stored());
            drop(directory);
        }
    }
}

#[test]
fn a_new_file_is_empty_until_it_has_an_epoch() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state.db");
    assert_eq!(reopened(&path), (None, vec![]));
    assert_eq!(reopened(&path), (None, vec![]));
    // An empty file is as good as none: a user may have created it with `mktemp`.
    let made = directory.path().join("made");
    fs::write(&made, "").unwrap();
    assert_eq!(reopened(&made), (None, vec![]));
    assert_eq!(set_aside(&made), [] as [PathBuf; 0]);
}

#[test]
fn without_a_file_nothing_is_saved_and_nothing_fails() {
    let mut store = Store::none();
    store.reset(&empty(1), &host()).unwrap();
    store.save(&batch(0..3, 1)).unwrap();
    store.save_host(&host(), &[]).unwrap();
    assert_eq!(stored(&store), (None, vec![]));
    assert!(!store.is_lost());
}

#[test]
fn the_last_65536_events_are_kept() {
    let (_directory, path, mut store) = new_store();
    let mut revision = 1;
    for events in [1000, MAX_HISTORY_EVENTS - 1000, 1, 1, 100, MAX_HISTORY_EVENTS + 3] {
        store.save(&batch(0..1, revision)).unwrap();
        let writes: Vec<_> = (revision + 1..revision + events)
            .map(|revision| registered("/same", revision))
            .collect();
        store.save(&writes).unwrap();
        revision += events;
        let (mut first, mut count) = (u64::MAX, 0);
        read_events(&store.opened().unwrap().connection, |_, event| {
            first = first.min(event.revision);
            count += 1;
        })
        .unwrap();
        assert_eq!(count, (revision - 1).min(MAX_HISTORY_EVENTS));
        assert_eq!(first, revision - count);
    }
    drop(store);
    let (loaded, history) = reopened(&path);
    assert_eq!(loaded.unwrap().0.revision, revision - 1);
    assert_eq!(history.len(), 65_536);
    assert!(history.windows(2).all(|two| two[0].1.revision + 1 == two[1].1.revision));
}

/// Fails each write in turn, in the ways in which SQLite takes back a statement or all.
#[test]
fn a_save_that_fails_at_any_write_changes_nothing() {
    for way in ["ABORT", "FAIL", "ROLLBACK"] {
        let (_directory, path, mut store) = new_store();
        store.save(&batch(0..20, 1)).unwrap();
        let before = stored(&store);
        // So far ahead that it pushes the last 11 events out of the history.
        let last = MAX_HISTORY_EVENTS + 20;
        let mut writes = batch(15..25, last - 10);
        writes.push(removed("/3", last));
        writes.push(Write { event: None, ..registered("/4", 5) });

        let mut failures = 0;
        loop {
            inject(&store, way, failures);
            let saved = store.save(&writes);
            assert_eq!(
                store.opened().unwrap().meta.revision,
                if saved.is_ok() { last } else { 20 }
            );
            recover(&store);
            if saved.is_ok() {
                break;
            }
            assert_eq!(stored(&store), before, "{way} at write {failures}");
            assert_eq!(after_kill(&path), before, "{way} at write {failures}");
            failures += 1;
        }
        // Changes of topics, new events, forgotten events, the revision.
        assert_eq!(failures, 12 + 11 + 11 + 1);
        let after = stored(&store);
        assert_eq!(after.0.as_ref().unwrap().0.revision, last);
        assert_eq!(after_kill(&path), after);
        // The first nine are left, since no daemon makes such a leap.
        let mut events = 0;
        let connection = &store.opened().unwrap().connection;
        read_events(connection, |_, _| events += 1).unwrap();
        assert_eq!(events, 9 + 11);

        inject(&store, way, 3);
        assert!(store.reset(&empty(8), &host()).is_err());
        recover(&store);
        assert_eq!(stored(&store), after);
        store.reset(&empty(8), &host()).unwrap();
        assert_eq!(stored(&store).1, vec![]);
    }
}

/// Lets the write after the next `good` ones fail.
fn inject(store: &Store, way: &str, good: u32) {
    let connection = &store.opened().unwrap().connection;
    let left = format!("CREATE TEMP TABLE left (writes INTEGER); INSERT INTO left VALUES ({good})");
    connection.execute_batch(&left).unwrap();
    for (table, operation) in [
        ("meta", "INSERT"),
        ("topics", "INSERT"),
        ("topics", "DELETE"),
        ("events", "INSERT"),
        ("events", "DELETE"),
    ] {
        let trigger = format!(
            "CREATE TEMP TRIGGER {table}_{operation} BEFORE {operation} ON main.{table} BEGIN
                 SELECT RAISE({way}, 'injected') FROM left WHERE writes = 0;
                 UPDATE left SET writes = writes - 1;
             END"
        );
        connection.execute_batch(&trigger).unwrap();
    }
}

fn recover(store: &Store) {
    let connection = &store.opened().unwrap().connection;
    assert!(connection.is_autocommit());
    connection
        .execute_batch(
            "DROP TRIGGER meta_INSERT; DROP TRIGGER topics_INSERT; DROP TRIGGER topics_DELETE;
             DROP TRIGGER events_INSERT; DROP TRIGGER events_DELETE; DROP TABLE left;",
        )
        .unwrap();
}

#[test]
fn a_save_that_finds_no_page_changes_nothing() {
    let (_directory, path, mut store) = new_store();
    store.save(&batch(0..20, 1)).unwrap();
    let before = stored(&store);
    let writes = batch(20..200, 21);
    let limit = |store: &Store, pages: u32| {
        let connection = &store.opened().unwrap().connection;
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    };
    let pages: u32 = store
        .opened()
        .unwrap()
        .connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    let mut failures = 0;
    loop {
        limit(&store, pages + failures);
        match store.save(&writes) {
            Ok(()) => break,
            Err(error) => {
                assert!(error.to_string().ends_with("database or disk is full"), "{error}");
            }
        }
        assert_eq!(stored(&store), before);
        assert_eq!(after_kill(&path), before);
        failures += 1;
    }
    assert!(failures > 10, "{failures}");
    limit(&store, u32::MAX >> 2);
    store.save(&batch(200..300, 201)).unwrap();
    assert_eq!(after_kill(&path), stored(&store));
}

#[test]
fn a_save_that_may_not_write_changes_nothing() {
    let (_directory, path, mut store) = new_store();
    store.save(&batch(0..5, 1)).unwrap();
    let before = stored(&store);
    let writes = batch(3..8, 6);

    let query_only = |store: &Store, on: bool| {
        store.opened().unwrap().connection.pragma_update(None, "query_only", on).unwrap();
    };
    query_only(&store, true);
    let error = store.save(&writes).unwrap_err().to_string();
    assert!(error.contains("cannot save to the state file /"), "{error}");
    query_only(&store, false);
    assert_eq!(stored(&store), before);

    // A reader of the file does not disturb the store; a writer makes its saves fail at once.
    let other = SqliteConnection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM topics").unwrap();
    store.save(&batch(8..9, 6)).unwrap();
    other.execute_batch("COMMIT; BEGIN IMMEDIATE").unwrap();
    let before = stored(&store);
    let started = std::time::Instant::now();
    let error = store.save(&batch(9..10, 7)).unwrap_err().to_string();
    assert!(error.ends_with("database is locked"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(stored(&store), before);
    other.execute_batch("ROLLBACK").unwrap();
    store.save(&batch(9..10, 7)).unwrap();
    drop(other);
    assert_eq!(after_kill(&path), stored(&store));
}

/// A small file system; none where that is not permitted.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(kilobytes: u32) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let size = format!("size={kilobytes}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        let status = Command::new("mount").args(["-o", &option]).arg(self.0.path()).status();
        assert!(status.unwrap().success());
    }

    /// Leaves so many bytes free.
    fn fill(&self, free: u64) {
        let filler = fs::File::create(self.0.path().join("filler")).unwrap();
        let mut length = 0;
        while rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), length, 4096)
            .is_ok()
        {
            length += 4096;
        }
        filler.set_len(length.saturating_sub(free)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run says so")]
fn a_full_disk_refuses_changes_and_loses_none() {
    let Some(disk) = SmallDisk::mount(12 << 10) else {
        eprintln!("not run: mounting a small file system is not permitted");
        return;
    };
    let path = disk.0.path().join("state.db");
    disk.fill(0);
    assert!(sentence(&path).contains("cannot create the state file"));
    disk.free();
    // Past 1,000 pages in the log each save also tries to move it into the file.
    for pages in (0..30).chain([60, 200, 900, 1100, 1500]) {
        let (mut store, loaded) = Store::open(&path).unwrap();
        assert_eq!(loaded, None);
        store.reset(&empty(7), &host()).unwrap();
        disk.fill(pages * 4096);
        let mut revision = 1;
        let mut topics = BTreeMap::new();
        let mut keep = |writes: Vec<Write>| {
            topics.extend(writes.into_iter().map(|write| (write.name, write.record.unwrap())));
        };
        loop {
            let topic = revision % 600;
            let count = 1 + revision % 23;
            let writes = batch(topic..topic + count, revision);
            if let Err(error) = store.save(&writes) {
                let error = error.to_string();
                assert!(error.contains("full") || error.contains("I/O"), "{error}");
                break;
            }
            keep(writes);
            revision += count;
            assert!(revision < MAX_HISTORY_EVENTS, "the disk does not fill up");
        }
        let found = after_kill(&path);
        assert!(stored(&store) == found, "{pages} pages");
        disk.free();
        let writes = batch(0..1, revision);
        store.save(&writes).unwrap();
        assert!(after_kill(&path) == stored(&store), "{pages} pages");
        close_without_log(store, &path);

        let Snapshot { revision: last, mut records, .. } = found.0.unwrap().0;
        assert_eq!(last, revision - 1);
        records.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(records.iter().eq(topics.values()), "{pages} pages");
        fs::remove_file(&path).unwrap();
    }

    let (mut store, _) = Store::open(&path).unwrap();
    store.reset(&empty(8), &host()).unwrap();
    drop(store);
    disk.fill(0);
    let (mut store, loaded) = Store::open(&path).unwrap();
    assert_eq!(apart(loaded).0.unwrap().0, empty(8));
    assert!(!store.lacks_space(), "it saves as soon as there is space");
    assert!(store.save(&batch(0..600, 1)).unwrap_err().is_for_lack_of_space());
    assert_eq!(stored(&store).0.unwrap().0, empty(8));
    drop(store);
    disk.free();
    disk.remount("ro");
    assert!(sentence(&path).contains("Read-only file system"));
    disk.remount("rw");
    assert_eq!(reopened(&path).0.unwrap().0, empty(8));
    assert_eq!(set_aside(&path), [] as [PathBuf; 0]);
}

/// A file of a few pages in the main part and a few commits in the log, and the states that the
/// commits left.
fn with_a_log(directory: &Path) -> (Vec<u8>, Vec<u8>, Vec<StoredState>) {
    let path = directory.join("base.db");
    let (mut store, _) = Store::open(&path).unwrap();
    let mut states = vec![stored(&store)];
    store.reset(&empty(7), &host()).unwrap();
    states.push(stored(&store));
    store.save(&batch(0..30, 1)).unwrap();
    states.push(stored(&store));
    close_without_log(store, &path);
    let (mut store, _) = Store::open(&path).unwrap();
    for revision in 31..36 {
        store.save(&[registered(&format!("/{}", revision * 7 % 40), revision)]).unwrap();
        states.push(stored(&store));
    }
    (fs::read(&path).unwrap(), fs::read(beside(&path, "-wal")).unwrap(), states)
}

/// The most that may be wrong in a state that a damaged file gives.
#[derive(Clone, Copy, PartialEq)]
enum Tolerance {
    Nothing,
    /// The values of one row, or the history as a whole, which then begins anew.
    OneRow,
}

/// Opens a damaged file. It gives an earlier state up to the tolerance, is renamed without a change,
/// or is refused without a change.
fn survive(main: &[u8], log: &[u8], states: &[StoredState], tolerance: Tolerance) -> &'static str {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state.db");
    fs::write(&path, main).unwrap();
    fs::write(beside(&path, "-wal"), log).unwrap();
    match Store::open(&path) {
        Err(error) => {
            assert!(error.to_string().contains("state.db"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), main);
            assert_eq!(fs::read(beside(&path, "-wal")).unwrap(), log);
            "refused"
        }
        Ok((mut store, loaded)) => {
            let lost_history =
                loaded.as_ref().and_then(|loaded| loaded.history_loss) == Some(HistoryLoss::Gap);
            let found = apart(loaded);
            let aside = set_aside(&path);
            let result = if let Some(aside) = aside.first() {
                assert_eq!(found, (None, vec![]));
                if !main.is_empty() {
                    assert_eq!(fs::read(aside).unwrap(), main);
                    assert_eq!(fs::read(beside(aside, "-wal")).unwrap(), log);
                }
                "set aside"
            } else if main.is_empty() {
                "loaded"
            } else {
                let wrong_rows = |state: &StoredState| wrong_rows(&found, state, lost_history);
                let fewest = states.iter().filter_map(wrong_rows).min();
                let most = usize::from(tolerance == Tolerance::OneRow);
                assert!(fewest.is_some_and(|fewest| fewest <= most), "{fewest:?} wrong rows");
                if fewest == Some(0) { "loaded" } else { "loaded with a wrong row" }
            };
            store.reset(&empty(9), &host()).unwrap();
            store.save(&batch(0..40, 1)).unwrap();
            let last = stored(&store);
            drop(store);
            assert_eq!(reopened(&path), last);
            result
        }
    }
}

/// The number of rows whose values are not those of an earlier state; a lost history counts as one.
/// `None`: it has other rows.
fn wrong_rows(found: &StoredState, state: &StoredState, lost_history: bool) -> Option<usize> {
    let (Some((found_topics, found_host)), Some((topics, host))) = (&found.0, &state.0) else {
        return (found == state).then_some(0);
    };
    let position = |snapshot: &Snapshot| (snapshot.epoch, snapshot.revision);
    let is_wrong_meta = position(found_topics) != position(topics) || found_host != host;
    let by_name = |snapshot: &Snapshot| {
        let mut records = snapshot.records.clone();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    };
    let (found_records, records) = (by_name(found_topics), by_name(topics));
    let names = |records: &[Record]| -> Vec<TopicName> {
        records.iter().map(|record| record.name.clone()).collect()
    };
    if names(&found_records) != names(&records) {
        return None;
    }
    let wrong_topics = found_records.iter().zip(&records).filter(|(found, old)| found != old);
    let wrong_events = if lost_history {
        // Also when it is lost for the wrong revision that the metadata has.
        usize::from(!is_wrong_meta)
    } else if found.1.len() == state.1.len() {
        found.1.iter().zip(&state.1).filter(|(found, old)| found != old).count()
    } else {
        return None;
    };
    Some(usize::from(is_wrong_meta) + wrong_topics.count() + wrong_events)
}

#[test]
fn a_file_that_was_cut_off_is_an_earlier_one_or_is_renamed() {
    let directory = TempDir::new().unwrap();
    let (main, log, states) = with_a_log(directory.path());
    assert_eq!(survive(&main, &log, &states[states.len() - 1..], Tolerance::Nothing), "loaded");
    let around = |length: usize| {
        let page = 4096;
        let near =
            (0..=length / page).flat_map(move |n| [n * page, n * page + 1, (n * page).max(1) - 1]);
        near.chain((0..length).step_by(503)).filter(move |cut| *cut < length)
    };
    for cut in around(main.len()) {
        survive(&main[..cut], &log, &states, Tolerance::Nothing);
    }
    for cut in around(log.len()) {
        assert_eq!(survive(&main, &log[..cut], &states, Tolerance::Nothing), "loaded");
    }
}

#[test]
fn a_file_with_a_wrong_byte_is_an_earlier_one_but_for_one_row_or_is_renamed() {
    let directory = TempDir::new().unwrap();
    let (main, log, states) = with_a_log(directory.path());
    let mut seen = BTreeMap::new();
    let step = std::env::var("EVERY_NTH_BYTE").map_or(101, |step| step.parse().unwrap());
    for (index, at) in (0..100).chain((100..main.len()).step_by(step)).enumerate() {
        let mut main = main.clone();
        main[at] ^= [0x01, 0x80, 0xff, 0x20][index % 4];
        // Without the log, which has newer copies of some pages.
        *seen.entry(survive(&main, &[], &states, Tolerance::OneRow)).or_insert(0) += 1;
    }
    for result in ["loaded", "loaded with a wrong row", "set aside", "refused"] {
        assert!(seen.get(result).is_some_and(|count| *count > 3), "{result}: {seen:?}");
    }
    // The log has checksums of its own.
    for at in (0..100).chain((100..log.len()).step_by(step * 7)) {
        let mut log = log.clone();
        log[at] ^= 0x10;
        assert_eq!(survive(&main, &log, &states, Tolerance::Nothing), "loaded");
    }
}

#[test]
fn a_row_that_the_store_cannot_have_written_is_damage() {
    for sql in [
        "UPDATE topics SET place = 5",
        "UPDATE topics SET hold = 'mine' WHERE name = '/3'",
        "UPDATE topics SET session_id = 's' WHERE name = '/3'",
        "UPDATE topics SET pid = NULL WHERE name = '/3'",
        "UPDATE topics SET listener_pid = 1 WHERE name = '/3'",
        "UPDATE topics SET uid = -1 WHERE name = '/3'",
        "UPDATE topics SET name = '/33' WHERE name = '/3'",
        "UPDATE topics SET info = x'80' WHERE name = '/3'",
        "DELETE FROM meta",
        "UPDATE meta SET id = 1",
        "INSERT INTO meta SELECT 1, epoch, revision, boot_id, pid_namespace, device, inode,
             born_ns FROM meta",
        "ALTER TABLE topics ADD COLUMN note TEXT",
        "CREATE TRIGGER t AFTER INSERT ON topics BEGIN DELETE FROM topics; END",
        "CREATE INDEX i ON topics (place)",
        "DROP TABLE events",
        "PRAGMA user_version = 0",
    ] {
        let (_directory, path, mut store) = new_store();
        store.save(&batch(0..5, 1)).unwrap();
        drop(store);
        shell(&path, sql);
        assert_eq!(reopened(&path), (None, vec![]), "{sql}");
        let aside = set_aside(&path);
        assert_eq!(aside.len(), 1, "{sql}: {aside:?}");
        // The damaged file is kept as it was.
        shell(&aside[0], "PRAGMA quick_check");
    }
}

#[test]
fn a_wrong_value_of_a_topic_leaves_the_others_and_the_history() {
    let (_directory, path, mut store) = new_store();
    store.save(&batch(0..5, 1)).unwrap();
    let (topics, history) = stored(&store);
    drop(store);
    shell(&path, "UPDATE topics SET uid = 7 WHERE name = '/3'");
    let mut expected = topics.unwrap();
    expected.0.records[3].uid = Some(7);
    assert_eq!(reopened(&path), (Some(expected), history));
}

#[test]
fn a_missing_topic_is_a_loss() {
    let (_directory, path, mut store) = new_store();
    store.save(&batch(0..5, 1)).unwrap();
    drop(store);
    shell(&path, "DELETE FROM topics WHERE name = '/3'");
    let loaded = Store::open(&path).unwrap().1.unwrap();
    assert_eq!(loaded.history_loss, Some(HistoryLoss::Gap));
    assert_eq!(loaded.snapshot.records.len(), 4);
}

#[test]
fn a_damaged_history_leaves_the_topics() {
    for sql in [
        "UPDATE events SET kind = 'renamed' WHERE revision = 2",
        "UPDATE events SET topic_name = '/4' WHERE revision = 2",
        "UPDATE events SET info = x'80' WHERE revision = 2",
        "UPDATE events SET revision = 12 WHERE revision = 2",
        "DELETE FROM events WHERE revision = 2",
        "DELETE FROM events WHERE revision = 5",
        "UPDATE meta SET revision = 6",
        "UPDATE events SET kind = 'unregistered', reason = 'unregistered' WHERE revision = 5",
    ] {
        let (_directory, path, mut store) = new_store();
        store.save(&batch(0..5, 1)).unwrap();
        let records = stored(&store).0.unwrap().0.records;
        drop(store);
        shell(&path, sql);
        let loaded = Store::open(&path).unwrap().1.unwrap();
        assert_eq!(loaded.history_loss, Some(HistoryLoss::Gap), "{sql}");
        assert_eq!((loaded.snapshot.records, loaded.snapshot.history), (records, vec![]), "{sql}");
        assert_eq!(set_aside(&path), [] as [PathBuf; 0], "{sql}");
    }
    let (_directory, path, mut store) = new_store();
    store.save(&batch(0..5, 1)).unwrap();
    drop(store);
    // Old events go first, so a history may start anywhere.
    shell(&path, "DELETE FROM events WHERE revision < 4");
    let loaded = Store::open(&path).unwrap().1.unwrap();
    assert_eq!((loaded.history_loss, loaded.snapshot.history.len()), (None, 2));
}

#[test]
fn damaged_files_do_not_replace_each_other() {
    let (_directory, path, store) = new_store();
    drop(store);
    for count in 1..4 {
        shell(&path, "DROP TABLE events");
        let (mut store, _) = Store::open(&path).unwrap();
        store.reset(&empty(count), &host()).unwrap();
        assert_eq!(set_aside(&path).len(), usize::try_from(count).unwrap());
    }
}

#[test]
fn a_file_of_another_program_or_of_a_newer_version_is_not_changed() {
    let directory = TempDir::new().unwrap();
    let text = directory.path().join("text");
    fs::write(&text, "not a database\n".repeat(50)).unwrap();
    let database = directory.path().join("other.db");
    shell(&database, "CREATE TABLE topics (name TEXT); PRAGMA application_id = 7");
    let short = directory.path().join("short");
    fs::write(&short, b"SQLite format 3\0").unwrap();
    for path in [&text, &database, &short] {
        let before = fs::read(path).unwrap();
        assert!(
            sentence(path).contains("is not a file of this daemon: the daemon does not change it")
        );
        assert_eq!(fs::read(path).unwrap(), before);
    }

    let (_directory, path, store) = new_store();
    drop(store);
    shell(&path, "PRAGMA user_version = 3; DROP TABLE topics");
    let before = fs::read(&path).unwrap();
    let said = sentence(&path);
    assert!(said.contains("has version 3, and this daemon can read versions up to 2"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(set_aside(&path), [] as [PathBuf; 0]);
}

#[test]
fn only_a_regular_file_of_this_user_is_opened() {
    let (directory, path, store) = new_store();
    drop(store);
    let at = |name: &str| directory.path().join(name);

    symlink(&path, at("link")).unwrap();
    assert!(sentence(&at("link")).contains("is a symbolic link"));
    symlink(at("nothing"), at("dangling")).unwrap();
    assert!(sentence(&at("dangling")).contains("is a symbolic link"));
    assert!(!at("nothing").exists());
    fs::create_dir(at("directory")).unwrap();
    assert!(sentence(&at("directory")).contains("is a directory"));
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(sentence(&at("fifo")).contains("is not a regular file"));
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    assert!(sentence(&at("socket")).contains("is not a regular file"));
    for none in ["", "/", ".."] {
        assert!(Store::open(Path::new(none)).is_err());
    }

    for sidecar in ["-wal", "-shm", "-journal", "-tip"] {
        let _ = fs::remove_file(beside(&path, sidecar));
        symlink(at("nothing"), beside(&path, sidecar)).unwrap();
        let said = Store::open(&path).unwrap_err().to_string();
        assert!(said.contains(sidecar) && said.contains("is a symbolic link"), "{said}");
        fs::remove_file(beside(&path, sidecar)).unwrap();
    }
    assert!(!at("nothing").exists());
    Store::open(&path).unwrap();
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run says so")]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can give a file to another user");
        return;
    }
    let (_directory, path, store) = new_store();
    drop(store);
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(sentence(&path).contains("belongs to another user: the daemon does not change it"));
    assert_eq!(fs::read(&path).unwrap(), before);
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();

    fs::write(beside(&path, "-wal"), "").unwrap();
    std::os::unix::fs::chown(beside(&path, "-wal"), Some(65534), None).unwrap();
    let said = Store::open(&path).unwrap_err().to_string();
    assert!(said.contains("state.db-wal belongs to another user"), "{said}");
}

#[test]
fn directory_and_files_are_private() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a/b/state.db");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let (mut store, _) = Store::open(&path).unwrap();
    store.reset(&empty(1), &host()).unwrap();
    for made in ["a", "a/b"] {
        assert_eq!(mode(&directory.path().join(made)), 0o700);
    }
    for suffix in ["", "-wal", "-shm", "-tip"] {
        assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix}");
    }
    drop(store);
    let there: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(there.len(), 4, "closing leaves the log: {there:?}");
    // A copy may have come with another mode.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let _store = Store::open(&path).unwrap();
    for suffix in ["", "-wal", "-shm", "-tip"] {
        assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix}");
    }
}

#[test]
fn a_directory_may_be_a_link() {
    let (directory, path, store) = new_store();
    drop(store);
    let link = directory.path().join("link");
    symlink(directory.path(), &link).unwrap();
    let (store, loaded) = Store::open(&link.join("state.db")).unwrap();
    assert_eq!(loaded.unwrap().snapshot.epoch, 7);
    // And is the same one.
    assert!(sentence(&path).contains("another daemon uses the state file"));
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn a_deleted_or_replaced_file_is_noticed() {
    type Removal = fn(&Path);
    let removals: [Removal; 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::rename(path, beside(path, ".moved")).unwrap(),
        |path| {
            fs::copy(path, beside(path, ".copy")).unwrap();
            fs::rename(beside(path, ".copy"), path).unwrap();
        },
        |path| fs::remove_file(beside(path, "-wal")).unwrap(),
    ];
    for remove in removals {
        let (_directory, path, mut store) = new_store();
        store.save(&batch(0..5, 1)).unwrap();
        assert!(!store.is_lost());
        remove(&path);
        assert!(store.is_lost());
        let error = store.save(&batch(5..6, 6)).unwrap_err();
        assert!(matches!(error, StoreError::Lost(_)), "{error}");
        assert!(error.to_string().contains("was deleted or replaced"));
    }
}

#[test]
fn closing_a_lost_file_does_not_damage_the_next_one() {
    let (_directory, path, mut lost) = new_store();
    lost.save(&batch(0..5, 1)).unwrap();
    fs::remove_file(&path).unwrap();

    // The log of the lost one must not be taken for the new one's.
    let (mut store, loaded) = Store::open(&path).unwrap();
    assert_eq!(loaded, None);
    store.reset(&empty(8), &host()).unwrap();
    store.save(&batch(0..9, 1)).unwrap();
    let kept = stored(&store);
    drop(lost);
    assert!(!store.is_lost());
    assert_eq!(after_kill(&path), kept);
    store.save(&batch(9..10, 10)).unwrap();
    assert_eq!(after_kill(&path), stored(&store));
}

#[test]
fn a_history_goes_on_unless_something_of_it_may_be_lost() {
    type Accident = fn(&Path, &[(PathBuf, Vec<u8>)], &[(PathBuf, Vec<u8>)]);
    /// Puts a copy in the place of a file, as a new file.
    fn replace(file: &Path, content: &[u8]) {
        fs::write(beside(file, ".copy"), content).unwrap();
        fs::rename(beside(file, ".copy"), file).unwrap();
    }
    let accidents: [(&str, Option<HistoryLoss>, Accident); 13] = [
        ("nothing", None, |_, _, _| {}),
        ("a copy of now, in place", None, |_, _, now| write_in_place(now)),
        ("a kill before the tip was written", None, |_, earlier, _| write_in_place(&earlier[1..])),
        ("an earlier copy, in place", Some(HistoryLoss::Behind), |_, earlier, _| {
            write_in_place(&earlier[..1]);
        }),
        ("an earlier copy", Some(HistoryLoss::CopiedState), |path, earlier, _| {
            replace(path, &earlier[0].1);
        }),
        ("a copy of now", Some(HistoryLoss::CopiedState), |path, _, now| replace(path, &now[0].1)),
        // The file system may give the copy the same inode.
        ("a copy after a deletion", Some(HistoryLoss::CopiedState), |path, earlier, _| {
            for (file, content) in earlier {
                fs::remove_file(file).unwrap();
                fs::write(file, content).unwrap();
            }
            assert_eq!(earlier[0].0, path);
        }),
        ("no tip", Some(HistoryLoss::NoTip), |path, _, _| {
            fs::remove_file(beside(path, "-tip")).unwrap();
        }),
        ("a copy of the tip", Some(HistoryLoss::CopiedTip), |_, _, now| {
            replace(&now[1].0, &now[1].1);
        }),
        ("a tip that is cut off", Some(HistoryLoss::DamagedTip), |path, _, now| {
            fs::write(beside(path, "-tip"), &now[1].1[1..]).unwrap();
        }),
        ("an empty tip", Some(HistoryLoss::DamagedTip), |path, _, _| {
            fs::write(beside(path, "-tip"), "").unwrap();
        }),
        ("a tip of another history", Some(HistoryLoss::OtherEpoch), |path, _, now| {
            let tip = String::from_utf8(now[1].1.clone()).unwrap();
            let other = tip.replacen("0000000000000007", "0000000000000008", 1);
            fs::write(beside(path, "-tip"), other).unwrap();
        }),
        ("an earlier revision in the metadata", Some(HistoryLoss::Gap), |path, _, _| {
            shell(path, "UPDATE meta SET revision = revision - 1");
        }),
    ];
    for (what, expected, accident) in accidents {
        let (_directory, path, mut store) = new_store();
        store.save(&batch(0..5, 1)).unwrap();
        close_without_log(store, &path);
        let earlier = backup(&path);
        assert_eq!(earlier.len(), 2, "the log is gone");
        // In the same place, so that the tip's file stays the same.
        let (mut store, _) = Store::open(&path).unwrap();
        store.save(&batch(5..9, 6)).unwrap();
        close_without_log(store, &path);
        let now = backup(&path);
        let earlier = if what == "a kill before the tip was written" {
            let origin = now[1].1.split_at(12 + 2 * 17).1;
            let tip = [earlier[1].1.split_at(12 + 2 * 17).0, origin].concat();
            vec![earlier[0].clone(), (now[1].0.clone(), tip)]
        } else {
            earlier
        };
        accident(&path, &earlier, &now);

        let (mut store, loaded) = Store::open(&path).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(loaded.history_loss, expected, "{what}");
        let is_earlier = fs::read(&path).unwrap() == earlier[0].1;
        let topics = if is_earlier { 5 } else { 9 };
        assert_eq!(loaded.snapshot.records.len(), topics, "{what}");
        if expected.is_none() {
            store.save(&batch(9..10, 10)).unwrap();
            drop(store);
            assert_eq!(Store::open(&path).unwrap().1.unwrap().history_loss, None, "{what}");
            continue;
        }
        assert_eq!(set_aside(&path), [] as [PathBuf; 0], "{what}");
        // Nothing but a new history is stored now, so the loss is not forgotten.
        let writes = batch(9..10, 20);
        let error = store.save(&writes).unwrap_err().to_string();
        assert!(error.contains("its new history is not stored yet"), "{error}");
        drop(store);
        let (mut store, again) = Store::open(&path).unwrap();
        assert_eq!(again.unwrap().history_loss, expected, "{what}");
        let snapshot = Snapshot { epoch: 8, history: vec![], ..loaded.snapshot };
        store.reset(&snapshot, &host()).unwrap();
        store.save(&writes).unwrap();
        let (store, loaded) = killed(store, &path);
        assert_eq!(
            (loaded.snapshot.epoch, loaded.snapshot.records.len()),
            (8, topics + 1),
            "{what}"
        );
        drop(store);
        assert_eq!(Store::open(&path).unwrap().1.unwrap().history_loss, None, "{what}");
    }
}

/// As after a kill, where only the state file was put back.
#[test]
fn an_older_file_beside_a_newer_log_is_noticed() {
    const TOPICS: u64 = 200;
    let mut seen = BTreeMap::new();
    for topic in (0..TOPICS).step_by(7) {
        let (_directory, path, mut store) = new_store();
        store.save(&batch(0..TOPICS, 1)).unwrap();
        close_without_log(store, &path);
        let older = fs::read(&path).unwrap();
        let (mut store, _) = Store::open(&path).unwrap();
        // The log begins anew after a checkpoint, without the page of this topic.
        store.save(&[removed(&format!("/{topic}"), TOPICS + 1)]).unwrap();
        let connection = &store.opened().unwrap().connection;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        store.save(&[registered("/other", TOPICS + 2)]).unwrap();
        let left = backup(&path);
        drop(store);
        write_in_place(&left);
        fs::write(&path, &older).unwrap();

        let loaded = Store::open(&path).unwrap().1;
        let result = match &loaded {
            None => "set aside",
            Some(loaded) if loaded.history_loss.is_some() => "begins anew",
            // The log had the page of this topic too.
            Some(loaded) => {
                assert_eq!(loaded.snapshot.records.len(), 200);
                let is_there = |name: &str| {
                    loaded.snapshot.records.iter().any(|record| record.name.as_str() == name)
                };
                assert!(is_there("/other") && !is_there(&format!("/{topic}")));
                "is complete"
            }
        };
        *seen.entry(result).or_insert(0) += 1;
    }
    assert!(seen["begins anew"] > 0, "{seen:?}");
}

/// As `cp -a` of a whole backup does.
#[test]
fn files_put_back_together_in_place_are_noticed_after_a_start() {
    let (_directory, path, mut store) = new_store();
    store.save(&batch(0..5, 1)).unwrap();
    drop(store);
    let earlier = backup(&path);
    for revision in 6..9 {
        let (mut store, loaded) = Store::open(&path).unwrap();
        assert_eq!(loaded.unwrap().history_loss, None);
        store.save(&batch(revision..revision + 1, revision)).unwrap();
    }
    write_in_place(&earlier);
    let loaded = Store::open(&path).unwrap().1.unwrap();
    assert_eq!(loaded.history_loss, Some(HistoryLoss::CopiedTip));
}

#[test]
fn a_tip_that_cannot_be_renewed_is_written_in_place() {
    let (_directory, path, store) = new_store();
    drop(store);
    let blocker = beside(&path, "-tip.new");
    fs::create_dir(&blocker).unwrap();
    for revision in 1..4 {
        let (mut store, loaded) = Store::open(&path).unwrap();
        assert_eq!(loaded.unwrap().history_loss, None);
        store.save(&batch(revision..revision + 1, revision)).unwrap();
        killed(store, &path);
    }
}

#[test]
fn without_a_tip_changes_are_saved_and_the_next_start_begins_a_new_history() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state.db");
    let blocker = beside(&path, "-tip.new");
    let (mut store, _) = Store::open(&path).unwrap();
    fs::create_dir(&blocker).unwrap();
    store.reset(&empty(7), &host()).unwrap();
    store.save(&batch(0..5, 1)).unwrap();
    drop(store);
    let (mut store, loaded) = Store::open(&path).unwrap();
    let loaded = loaded.unwrap();
    assert_eq!((loaded.history_loss, loaded.snapshot.records.len()), (Some(HistoryLoss::NoTip), 5));
    store.reset(&empty(8), &host()).unwrap();
    // As soon as the tip can be written, it is.
    fs::remove_dir(&blocker).unwrap();
    store.save(&batch(0..5, 1)).unwrap();
    drop(store);
    assert_eq!(Store::open(&path).unwrap().1.unwrap().history_loss, None);
}

#[test]
fn files_of_an_interrupted_start_are_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state.db");
    fs::write(&path, "").unwrap();
    for suffix in [".new", ".new-journal", ".new-wal", ".new-shm"] {
        fs::write(beside(&path, suffix), "leftover").unwrap();
    }
    assert_eq!(reopened(&path), (None, vec![]));
    let there: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(there.len(), 3, "the state file, its log and the log's index: {there:?}");
}

/// What `tests/state/v1.db` holds, which the daemon 0.1.0 wrote. It never changes.
fn version_1() -> StoredState {
    let host = Host {
        boot_id: Some("6e9a8a14-62a6-4e0c-8a25-5f0c6ad6e9a8".into()),
        pid_namespace: Some(4_026_531_836),
    };
    let topic = |text: &str, order, revision| Record { order, ..record(text, revision) };
    let records = vec![
        topic("/camera/image", 1, 3),
        Record {
            uid: None,
            process: None,
            is_local: false,
            found_alive: false,
            ..topic("/größe/☃", 2, 4)
        },
        Record {
            hold: Hold::Session { id: "sitzung-é".into(), lease_ms: 10_000 },
            uid: Some(u32::MAX),
            process: None,
            ..topic("/a\u{308}", 5, u64::MAX - 1)
        },
        Record {
            hold: Hold::Static,
            uid: Some(0),
            process: Some(Process { pid: u32::MAX, start_time: u64::MAX }),
            changed_ms: u64::MAX,
            ..topic("/ä", u64::MAX, u64::MAX)
        },
    ];
    let kinds = [
        EventKind::Registered,
        EventKind::Updated,
        EventKind::Unregistered,
        EventKind::Evicted(EvictionReason::OwnerExited),
        EventKind::Evicted(EvictionReason::LeaseExpired),
        EventKind::Evicted(EvictionReason::EndpointDead),
        EventKind::Registered,
    ];
    let events = kinds.into_iter().zip(u64::MAX - 6..=u64::MAX).map(|(kind, revision)| {
        let name = name("/größe/☃");
        let packed = packed(&name, "knoten");
        (name, Event { revision, kind, packed })
    });
    let epoch = 0xfedc_ba98_7654_3210;
    let snapshot = Snapshot { epoch, revision: u64::MAX, records, history: Vec::new() };
    (Some((snapshot, host)), events.collect())
}

/// What `tests/state/v2.db` holds. It never changes.
fn version_2() -> StoredState {
    let (state, events) = version_1();
    let (mut snapshot, host) = state.unwrap();
    let [by_process, remote, ..] = &mut snapshot.records[..] else { panic!("four topics") };
    let process = Process { pid: 4712, start_time: u64::MAX };
    by_process.listener = Some(EndpointListener::Process(process));
    remote.listener = Some(EndpointListener::Socket(u64::MAX));
    (Some((snapshot, host)), events)
}

fn checked_in(file: &str, directory: &TempDir) -> PathBuf {
    let path = directory.path().join("state.db");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state").join(file);
    fs::copy(from, &path).unwrap();
    path
}

#[test]
fn a_file_of_version_1_loads_and_gets_the_present_version() {
    let directory = TempDir::new().unwrap();
    let path = checked_in("v1.db", &directory);
    assert_eq!(reopened(&path), version_1());
    assert!(beside(&path, "-tip").exists());
    let version: i32 = SqliteConnection::open(&path)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, PRESENT.version);
    let (mut store, loaded) = Store::open(&path).unwrap();
    assert_eq!(loaded.as_ref().unwrap().history_loss, None);
    assert_eq!(apart(loaded), version_1());
    // It works like any other.
    store.reset(&empty(8), &host()).unwrap();
    store.save(&batch(0..40, 1)).unwrap();
    let last = stored(&store);
    drop(store);
    assert_eq!(reopened(&path), last);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run says so")]
fn a_file_of_version_1_on_a_full_disk_is_served_and_migrated_later() {
    let Some(disk) = SmallDisk::mount(1 << 10) else {
        eprintln!("not run: mounting a small file system is not permitted");
        return;
    };
    let path = checked_in("v1.db", &disk.0);
    let mut lacking = 0;
    for pages in (0..4).chain([16, 32, 64, 128]) {
        disk.fill(pages * 4096);
        let (store, loaded) = Store::open(&path).unwrap();
        assert_eq!(loaded.as_ref().unwrap().history_loss, None, "{pages} pages");
        assert_eq!(apart(loaded), version_1(), "{pages} pages");
        let lacks_space = store.lacks_space();
        lacking += usize::from(lacks_space);
        disk.free();
        if lacks_space {
            let (later, loaded) = Store::open(&path).unwrap();
            assert_eq!(apart(loaded), version_1(), "{pages} pages");
            assert!(later.continues(&store), "{pages} pages");
        }
        close_without_log(store, &path);
        fs::remove_file(&path).unwrap();
        checked_in("v1.db", &disk.0);
    }
    assert!((1..8).contains(&lacking), "the migration fails without some space: {lacking}");
}

#[test]
fn an_empty_file_of_version_1_gets_the_present_version() {
    let directory = TempDir::new().unwrap();
    let path = checked_in("v1.db", &directory);
    shell(&path, "DELETE FROM meta; DELETE FROM topics; DELETE FROM events");
    assert_eq!(reopened(&path), (None, vec![]));
    assert_eq!(reopened(&path), (None, vec![]));
}

#[test]
fn a_damaged_file_of_version_1_is_renamed_without_a_change() {
    let directory = TempDir::new().unwrap();
    let path = checked_in("v1.db", &directory);
    shell(&path, "UPDATE topics SET hold = 'mine'");
    let before = fs::read(&path).unwrap();
    assert_eq!(reopened(&path), (None, vec![]));
    assert_eq!(fs::read(&set_aside(&path)[0]).unwrap(), before);
}

#[test]
fn a_file_of_version_1_keeps_its_history_unless_a_tip_contradicts_it() {
    type Edit = fn(Snapshot) -> Snapshot;
    let earlier = |snapshot: Snapshot| Snapshot { revision: 9, ..snapshot };
    let other = |snapshot: Snapshot| Snapshot { epoch: 9, ..snapshot };
    let tips: [(Edit, Option<HistoryLoss>); 3] =
        [(|snapshot| snapshot, None), (earlier, None), (other, Some(HistoryLoss::OtherEpoch))];
    for (change, expected) in tips {
        let directory = TempDir::new().unwrap();
        let path = checked_in("v1.db", &directory);
        let before = fs::read(&path).unwrap();
        let (mut store, loaded) = Store::open(&path).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(loaded.history_loss, None);
        let snapshot = Snapshot { history: vec![], ..loaded.snapshot };
        store.reset(&change(snapshot), &loaded.host).unwrap();
        close_without_log(store, &path);
        fs::write(&path, before).unwrap();
        let loaded = Store::open(&path).unwrap().1.unwrap();
        assert_eq!(loaded.history_loss, expected);
        // The migration does not hide a loss.
        assert_eq!(Store::open(&path).unwrap().1.unwrap().history_loss, expected);
    }
}

/// A killed daemon leaves the log up to any byte.
#[test]
fn a_migration_that_is_cut_off_anywhere_leaves_a_file_that_loads() {
    let directory = TempDir::new().unwrap();
    let path = checked_in("v1.db", &directory);
    let before = fs::read(&path).unwrap();
    let store = Store::open(&path).unwrap().0;
    assert_eq!(fs::read(&path).unwrap(), before, "all is still in the log");
    let log = fs::read(beside(&path, "-wal")).unwrap();
    drop(store);
    let frame = 24 + 4096;
    assert!(log.len() > 5 * frame, "{}", log.len());
    for cut in (0..=log.len()).step_by(frame / 2).chain([log.len()]) {
        // In place, beside the tip, which the store writes before the migration.
        fs::write(&path, &before).unwrap();
        fs::write(beside(&path, "-wal"), &log[..cut]).unwrap();
        let loaded = Store::open(&path).unwrap().1;
        assert_eq!(loaded.as_ref().unwrap().history_loss, None, "cut at {cut}");
        assert_eq!(apart(loaded), version_1(), "cut at {cut}");
        assert_eq!(set_aside(&path), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = checked_in("v1.db", &directory);
    let before = fs::read(&path).unwrap();
    let other = SqliteConnection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(sentence(&path).ends_with("database is locked"));
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(reopened(&path), version_1());
}

#[test]
fn a_file_of_version_2_loads() {
    let directory = TempDir::new().unwrap();
    let path = checked_in("v2.db", &directory);
    assert_eq!(reopened(&path), version_2());
}

/// What this test makes, and no other file, was checked in when the version was new. To make a file,
/// give its path in `NEW_STATE_FILE`.
#[test]
fn a_new_file_has_the_same_content() {
    let (Some((snapshot, host)), events) = version_2() else { panic!("it holds something") };
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state.db");
    let (mut store, _) = Store::open(&path).unwrap();
    let before = Snapshot { revision: u64::MAX - 7, ..snapshot };
    store.reset(&before, &host).unwrap();
    let record = before.records.iter().find(|record| record.name == events[0].0);
    let writes: Vec<_> = events
        .into_iter()
        .map(|(name, event)| Write { name, record: record.cloned(), event: Some(event) })
        .collect();
    store.save(&writes).unwrap();
    drop(store);
    if let Some(new) = std::env::var_os("NEW_STATE_FILE") {
        fs::copy(&path, new).unwrap();
    }
    assert_eq!(reopened(&path), version_2());
}
