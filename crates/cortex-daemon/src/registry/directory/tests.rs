//! The directory compared with plain lists: what is committed, what the store has under way, and
//! what has changed since.

use std::collections::BTreeMap;
use std::time::Duration;

use cortex_proto::TopicInfo;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::peer::PeerIdentity;
use crate::registry::test_time::start;

const NAMES: [&str; 4] = ["/a", "/b", "/c", "/d"];

#[derive(Clone, Copy, Debug)]
enum DirectoryOperation {
    Put { topic: usize, pid: u32, hold: usize },
    Remove { topic: usize },
    NoteAlive { topic: usize },
    Evict { topic: usize },
    BeginCommit,
    Commit,
    Rollback,
}

fn operations() -> impl Strategy<Value = DirectoryOperation> {
    let topic = || 0..NAMES.len();
    prop_oneof![
        4 => (topic(), 1..3_u32, 0..3_usize)
            .prop_map(|(topic, pid, hold)| DirectoryOperation::Put { topic, pid, hold }),
        2 => topic().prop_map(|topic| DirectoryOperation::Remove { topic }),
        1 => topic().prop_map(|topic| DirectoryOperation::NoteAlive { topic }),
        1 => topic().prop_map(|topic| DirectoryOperation::Evict { topic }),
        2 => Just(DirectoryOperation::BeginCommit),
        1 => Just(DirectoryOperation::Commit),
        1 => Just(DirectoryOperation::Rollback),
    ]
}

fn name(topic: usize) -> TopicName {
    TopicName::new(NAMES[topic]).unwrap()
}

fn process(pid: u32) -> Process {
    Process { pid, start_time: 1 }
}

fn entry(topic: usize, order: u64, pid: u32, hold: usize) -> Entry {
    let info = TopicInfo {
        name: name(topic),
        address: "ipc:///x".into(),
        message_type: "M".into(),
        fingerprint: u64::from(pid),
        publisher_node: "n".into(),
    };
    Entry {
        packed: info.to_bytes().into(),
        info: Arc::new(info),
        order,
        revision: 1,
        changed_ms: 0,
        owner: PeerIdentity { uid: Some(1), process: Some(process(pid)), is_local: true },
        hold: match hold {
            0 => Hold::Process,
            1 => Hold::Static,
            _ => Hold::Session { id: format!("s{pid}"), lease_ms: 1000 },
        },
        listener: None,
        found_alive: false,
        is_orphaned: false,
        dead: None,
        registered_ticks: 0,
        is_restored: false,
        endpoint: EndpointFinding::default(),
        superseded: Vec::new(),
    }
}

/// A topic's index, process, hold, `found_alive` and revision.
type ModelTopic = (usize, u32, usize, bool, u64);
/// The topics in the order of the list, each with its place.
type ModelTopics = BTreeMap<u64, ModelTopic>;

fn model_topic(entry: &Entry) -> ModelTopic {
    let topic = NAMES.iter().position(|name| *name == entry.info.name.as_str()).unwrap();
    let hold = match &entry.hold {
        Hold::Process => 0,
        Hold::Static => 1,
        Hold::Session { .. } => 2,
    };
    (topic, entry.owner.process.unwrap().pid, hold, entry.found_alive, entry.revision)
}

fn visible(directory: &Directory, view: View) -> Vec<ModelTopic> {
    directory.visible(view).into_iter().map(model_topic).collect()
}

fn found(directory: &Directory, view: View) -> BTreeMap<u64, ModelTopic> {
    let entries = NAMES.iter().filter_map(|name| directory.find(name, view));
    entries.map(|entry| (entry.order, model_topic(entry))).collect()
}

/// Asserts that the indexes by process and by session have exactly the model's topics.
fn check_indexes(directory: &Directory, model: &ModelTopics) {
    let held = |wanted: usize| {
        let mut names: Vec<_> = model
            .values()
            .filter(|(_, _, hold, ..)| *hold == wanted)
            .map(|(topic, ..)| name(*topic))
            .collect();
        names.sort();
        names
    };
    let late = start() + Duration::from_secs(1_000_000);
    let mut in_sessions = directory.ended_sessions(&WaitingRequests::default(), late).topics;
    in_sessions.sort();
    assert_eq!(in_sessions, held(2));
    let topics_of = |pid| directory.owners.clone().process_exited(process(pid));
    let mut owned: Vec<_> = (1..3).flat_map(topics_of).collect();
    owned.sort();
    assert_eq!(owned, held(0));
}

proptest! {
    #[test]
    fn readers_see_what_is_committed_and_a_rollback_brings_it_back(
        operations in vec(operations(), 0..60),
    ) {
        let (mut directory, now) = (Directory::default(), start());
        let mut latest = ModelTopics::new();
        let (mut committed, mut under_way) = (ModelTopics::new(), None::<ModelTopics>);
        let mut revision = 0;
        for operation in operations {
            let order_of = |name: &str, directory: &Directory| {
                directory.get(name).filter(|entry| entry.dead.is_none()).map(|entry| entry.order)
            };
            match operation {
                DirectoryOperation::Put { topic, pid, hold } => {
                    directory.remove(&name(topic));
                    let order = directory.next_order();
                    latest.retain(|_, (known, ..)| *known != topic);
                    revision += 1;
                    let new = Entry { revision, ..entry(topic, order, pid, hold) };
                    directory.put(new, now);
                    latest.insert(order, (topic, pid, hold, false, revision));
                }
                DirectoryOperation::Remove { topic } => {
                    directory.remove(&name(topic));
                    latest.retain(|_, (known, ..)| *known != topic);
                }
                DirectoryOperation::NoteAlive { topic } => {
                    if let Some(order) = order_of(NAMES[topic], &directory) {
                        directory.note_served(&name(topic), None);
                        latest.get_mut(&order).unwrap().3 = true;
                    }
                }
                DirectoryOperation::Evict { topic } => {
                    if let Some(order) = order_of(NAMES[topic], &directory) {
                        directory.evict(&name(topic), EvictionReason::OwnerExited);
                        // No reader sees this registration any more, nor an earlier one of the
                        // same owner and hold, and a rollback does not bring it back.
                        let (_, pid, hold, ..) = latest.remove(&order).unwrap();
                        for topics in under_way.iter_mut().chain([&mut committed]) {
                            topics.retain(|_, known| (known.0, known.1, known.2) != (topic, pid, hold));
                        }
                    }
                }
                DirectoryOperation::BeginCommit => {
                    if under_way.is_none() {
                        directory.begin_commit();
                        under_way = Some(latest.clone());
                    }
                }
                DirectoryOperation::Commit => {
                    if let Some(now_committed) = under_way.take() {
                        directory.commit();
                        committed = now_committed;
                    }
                }
                DirectoryOperation::Rollback => {
                    directory.rollback(now);
                    (latest, under_way) = (committed.clone(), None);
                }
            }
            for (view, model) in [(View::Committed, &committed), (View::Latest, &latest)] {
                prop_assert_eq!(visible(&directory, view), model.values().copied().collect::<Vec<_>>());
                prop_assert_eq!(&found(&directory, view), model);
                prop_assert_eq!(directory.list(view).len(), model.len());
            }
            check_indexes(&directory, &latest);
        }
    }
}

#[test]
fn a_rollback_brings_a_sessions_end_back() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 2), now);
    commit(&mut directory);
    let end = directory.next_session_end();
    let later = now + Duration::from_millis(400);
    directory.put(entry(0, 0, 1, 2), later);
    assert_ne!(directory.next_session_end(), end, "a registration renews the session");
    directory.rollback(later);
    assert_eq!(directory.next_session_end(), end);
}

#[test]
fn a_rollback_brings_back_the_end_of_a_session_that_a_new_topic_has_extended() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 2), now);
    commit(&mut directory);
    let end = directory.next_session_end();
    directory.put(entry(1, 1, 1, 2), now + Duration::from_millis(400));
    directory.rollback(now + Duration::from_millis(400));
    assert_eq!(directory.next_session_end(), end);
}

#[test]
fn an_orphaned_topic_has_no_living_process() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 0), now);
    commit(&mut directory);
    assert_eq!(directory.take_watch_changes().watch, [process(1)]);
    assert_eq!(directory.process_exited(process(1)), [name(0)]);
    assert_eq!(directory.get("/a").unwrap().living_process(), None);
    directory.remove(&name(0));
    directory.rollback(now);
    assert_eq!(directory.take_watch_changes(), WatchChanges::default(), "its process has ended");
}

#[test]
fn a_renewal_after_a_change_outlives_its_rollback() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 2), now);
    commit(&mut directory);
    directory.put(entry(1, 1, 1, 2), now + Duration::from_millis(400));
    let key = SessionKey { uid: Some(1), id: "s1".into() };
    directory.renew_session(&key, now + Duration::from_millis(900));
    directory.rollback(now + Duration::from_millis(950));
    assert_eq!(directory.next_session_end(), Some(now + Duration::from_millis(1900)));
}

#[test]
fn the_list_is_packed_once_until_a_change_of_it_is_committed() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 0), now);
    assert_eq!([View::Committed, View::Latest].map(|view| directory.list(view).len()), [0, 1]);
    commit(&mut directory);
    let list = directory.list(View::Committed);
    directory.note_served(&name(0), None);
    commit(&mut directory);
    directory.put(entry(1, 1, 1, 0), now);
    assert!(Arc::ptr_eq(&list, &directory.list(View::Committed)));
    commit(&mut directory);
    assert_eq!((list.len(), directory.list(View::Committed).len()), (1, 2));
}

fn commit(directory: &mut Directory) {
    directory.begin_commit();
    directory.commit();
}
