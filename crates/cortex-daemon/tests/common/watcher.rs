//! A client that knows the topics only from its watch.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use cortex_daemon::peer::ConnectionId;
use cortex_daemon::registry::Input;
use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, EventKind, RequestExt, Since, TopicFilter, TopicInfo,
    TopicName,
};

use super::{REMOTE, World};

/// Applies snapshots and events to a list of topics. Panics at a duplicate event, and at an event
/// that does not fit the list.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    filter: Option<TopicFilter>,
    limit: Option<u64>,
    since: Option<Since>,
    parked_request: Option<usize>,
    topics: Vec<TopicInfo>,
    /// The revisions of the events since the last snapshot.
    pub(crate) seen: Vec<u64>,
    pub(crate) snapshots: usize,
}

impl Watcher {
    pub(crate) fn new(filter: Option<&str>, limit: Option<u64>) -> Self {
        let filter = filter.map(|pattern| TopicFilter::new(pattern).unwrap());
        Self { filter, limit, ..Self::default() }
    }

    /// Sends WATCH requests and applies their replies, until a request is parked.
    pub(crate) fn catch_up(&mut self, world: &mut World) {
        loop {
            let Some(number) = self.parked_request else {
                self.send_watch(world);
                continue;
            };
            let Some(reply) = world.replies.remove(&number) else { return };
            self.parked_request = None;
            self.apply(reply);
        }
    }

    /// Closes the connection of the present request. Its reply, if it has one, is lost.
    pub(crate) fn lose_reply(&mut self, world: &mut World) {
        if let Some(number) = self.parked_request.take() {
            world.replies.remove(&number);
            world.deliver(vec![Input::Disconnected(ConnectionId(number))]);
        }
    }

    /// Asserts that it has the topics of this LIST that match its filter. Dead topics whose eviction
    /// the store does not have yet are hidden from LIST, and their event is still to come.
    pub(crate) fn check(&self, list: &[TopicInfo], hidden: &[TopicName]) {
        let passes = |info: &&TopicInfo| {
            self.filter.as_ref().is_none_or(|filter| filter.matches(info.name.as_str()))
        };
        let is_visible = |info: &&TopicInfo| !hidden.contains(&info.name);
        let topics: Vec<_> = self.topics.iter().filter(is_visible).collect();
        assert_eq!(topics, list.iter().filter(passes).collect::<Vec<_>>());
    }

    fn send_watch(&mut self, world: &mut World) {
        let ext = RequestExt {
            filter: self.filter.as_ref().map(ToString::to_string),
            since: self.since,
            wait_ms: None,
            limit: self.limit,
            ..RequestExt::default()
        };
        self.parked_request = Some(world.send(REMOTE, DiscoveryRequest::watch(ext)));
    }

    fn apply(&mut self, reply: DiscoveryResponse) {
        let ext = reply.ext.unwrap();
        let (epoch, revision) = (ext.epoch.unwrap(), ext.revision.unwrap());
        if ext.snapshot == Some(true) {
            self.topics = reply.topics;
            self.snapshots += 1;
            self.seen.clear();
        }
        for event in ext.events.unwrap_or_default() {
            let since = self.since.unwrap();
            assert_eq!(since.epoch, epoch, "another epoch begins with a snapshot");
            let last = self.seen.last().copied().unwrap_or(since.revision);
            assert!(last < event.revision, "{last} and then {}", event.revision);
            self.seen.push(event.revision);
            let at = self.topics.iter().position(|known| known.name == event.topic_info.name);
            match (event.kind, at) {
                (EventKind::Registered, None) => self.topics.push(event.topic_info),
                (EventKind::Updated, Some(at)) => self.topics[at] = event.topic_info,
                (EventKind::Unregistered | EventKind::Evicted, Some(at)) => {
                    assert_eq!(self.topics.remove(at), event.topic_info);
                }
                // The snapshot came after the death and before its event.
                (EventKind::Evicted, None) => {}
                (kind, at) => panic!("{kind} of a topic at {at:?}"),
            }
        }
        self.since = Some(Since { epoch, revision });
    }
}
