//! The directory compared with a plain list: a rollback restores the state before the batch.

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
        endpoint: EndpointFinding::default(),
        superseded: Vec::new(),
    }
}

/// Each topic's index, process, hold and `found_alive`, in the order of the list.
type ModelTopics = Vec<(usize, u32, usize, bool)>;

fn content(directory: &Directory) -> ModelTopics {
    let topic = |entry: &Entry| {
        let topic = NAMES.iter().position(|name| *name == entry.info.name.as_str()).unwrap();
        let hold = match &entry.hold {
            Hold::Process => 0,
            Hold::Static => 1,
            Hold::Session { .. } => 2,
        };
        (topic, entry.owner.process.unwrap().pid, hold, entry.found_alive)
    };
    directory.iter().map(topic).collect()
}

/// Asserts that the indexes by process and by session have exactly the model's topics.
fn check_indexes(directory: &Directory, model: &ModelTopics) {
    let held = |wanted: usize| {
        let mut names: Vec<_> = model
            .iter()
            .filter(|(_, _, hold, _)| *hold == wanted)
            .map(|(topic, ..)| name(*topic))
            .collect();
        names.sort();
        names
    };
    let mut in_sessions =
        directory.topics_of_ended_sessions(start() + Duration::from_secs(1_000_000));
    in_sessions.sort();
    assert_eq!(in_sessions, held(2));
    let topics_of = |pid| directory.owners.clone().process_exited(process(pid));
    let mut owned: Vec<_> = (1..3).flat_map(topics_of).collect();
    owned.sort();
    assert_eq!(owned, held(0));
}

proptest! {
    #[test]
    fn a_rollback_brings_back_what_was_there(operations in vec(operations(), 0..60)) {
        let (mut directory, now) = (Directory::default(), start());
        let (mut model, mut committed): (ModelTopics, ModelTopics) = (Vec::new(), Vec::new());
        for operation in operations {
            match operation {
                DirectoryOperation::Put { topic, pid, hold } => {
                    let order = directory.get(NAMES[topic]).map(|entry| entry.order);
                    let order = order.unwrap_or_else(|| directory.next_order());
                    directory.put(entry(topic, order, pid, hold), now);
                    let new = (topic, pid, hold, false);
                    match model.iter_mut().find(|(known, ..)| *known == topic) {
                        Some(known) => *known = new,
                        None => model.push(new),
                    }
                }
                DirectoryOperation::Remove { topic } => {
                    directory.remove(&name(topic));
                    model.retain(|(known, ..)| *known != topic);
                }
                DirectoryOperation::NoteAlive { topic } => {
                    directory.note_served(&name(topic), None);
                    if let Some(known) = model.iter_mut().find(|(known, ..)| *known == topic) {
                        known.3 = true;
                    }
                }
                DirectoryOperation::Commit => {
                    directory.commit();
                    committed.clone_from(&model);
                }
                DirectoryOperation::Rollback => {
                    directory.rollback(now);
                    model.clone_from(&committed);
                }
            }
            prop_assert_eq!(content(&directory), model.clone());
            prop_assert_eq!(directory.list().len(), model.len());
            check_indexes(&directory, &model);
        }
    }
}

#[test]
fn a_rollback_brings_a_sessions_end_back() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 2), now);
    directory.commit();
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
    directory.commit();
    let end = directory.next_session_end();
    directory.put(entry(1, 1, 1, 2), now + Duration::from_millis(400));
    directory.rollback(now + Duration::from_millis(400));
    assert_eq!(directory.next_session_end(), end);
}

#[test]
fn an_orphaned_topic_has_no_living_process() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 0), now);
    directory.commit();
    assert_eq!(directory.take_watch_changes().watch, [process(1)]);
    assert_eq!(directory.process_exited(process(1)), [name(0)]);
    assert_eq!(directory.get("/a").unwrap().living_process(), None);
    directory.remove(&name(0));
    directory.rollback(now);
    assert_eq!(directory.take_watch_changes(), WatchChanges::default(), "its process has ended");
}

#[test]
fn the_list_is_packed_once_until_a_topic_changes() {
    let (mut directory, now) = (Directory::default(), start());
    directory.put(entry(0, 0, 1, 0), now);
    let list = directory.list();
    assert!(Arc::ptr_eq(&list, &directory.list()));
    directory.put(entry(1, 1, 1, 0), now);
    assert_eq!((list.len(), directory.list().len()), (1, 2));
}
