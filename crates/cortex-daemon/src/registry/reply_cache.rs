//! Large replies, kept as long as no topic changes.

use std::sync::Arc;

use cortex_proto::{Since, TopicFilter};

use super::directory::topics::TopicList;

/// The last plain LIST, and the last snapshot of a WATCH.
#[derive(Debug, Default)]
pub(super) struct ReplyCache {
    list: Option<(TopicList, Arc<[u8]>)>,
    snapshot: Option<CachedSnapshot>,
}

#[derive(Debug)]
struct CachedSnapshot {
    position: Since,
    filter: Option<Arc<TopicFilter>>,
    /// The list of all topics. An eviction that is not committed hides a topic, and moves no position.
    all: TopicList,
    topics: TopicList,
    body: Option<Arc<[u8]>>,
}

impl ReplyCache {
    /// Whether the plain LIST of these topics is packed already.
    pub(super) fn has_list(&self, topics: &TopicList) -> bool {
        self.list.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, topics))
    }

    /// The plain LIST of these topics.
    pub(super) fn list(
        &mut self,
        topics: &TopicList,
        pack: impl FnOnce() -> Arc<[u8]>,
    ) -> Arc<[u8]> {
        if let Some((known, body)) = &self.list
            && Arc::ptr_eq(known, topics)
        {
            return Arc::clone(body);
        }
        let body = pack();
        self.list = Some((Arc::clone(topics), Arc::clone(&body)));
        body
    }

    /// The topics of the list `all` that pass a filter at a position, when they were the last ones
    /// asked for.
    pub(super) fn snapshot_topics(
        &self,
        position: Since,
        filter: Option<&Arc<TopicFilter>>,
        all: &TopicList,
    ) -> Option<TopicList> {
        let known = self.snapshot.as_ref()?;
        let is_same = known.position == position
            && known.filter.as_ref() == filter
            && Arc::ptr_eq(&known.all, all);
        is_same.then(|| Arc::clone(&known.topics))
    }

    /// Keeps the topics of the list `all` that pass a filter at a position.
    pub(super) fn keep_snapshot(
        &mut self,
        position: Since,
        filter: Option<Arc<TopicFilter>>,
        all: TopicList,
        topics: TopicList,
    ) {
        self.snapshot = Some(CachedSnapshot { position, filter, all, topics, body: None });
    }

    /// Whether the snapshot of these topics is packed already.
    pub(super) fn has_snapshot(&self, topics: &TopicList) -> bool {
        let known = self.snapshot.as_ref();
        known.is_some_and(|known| known.body.is_some() && Arc::ptr_eq(&known.topics, topics))
    }

    /// The snapshot of these topics.
    pub(super) fn snapshot(
        &mut self,
        topics: &TopicList,
        pack: impl FnOnce() -> Arc<[u8]>,
    ) -> Arc<[u8]> {
        match &mut self.snapshot {
            Some(known) if Arc::ptr_eq(&known.topics, topics) => {
                Arc::clone(known.body.get_or_insert_with(pack))
            }
            Some(_) | None => pack(),
        }
    }

    /// Empties the cache after a rollback. The next change gets a revision for which the cache may
    /// have a reply with other topics.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(count: u8) -> TopicList {
        (0..count).map(|number| vec![number].into()).collect()
    }

    fn body(byte: u8) -> Arc<[u8]> {
        vec![byte].into()
    }

    #[test]
    fn a_list_is_packed_once() {
        let (mut cache, list) = (ReplyCache::default(), topics(2));
        assert!(!cache.has_list(&list));
        assert_eq!(cache.list(&list, || body(1)), body(1));
        assert!(cache.has_list(&list));
        assert_eq!(cache.list(&list, || body(2)), body(1));
        assert_eq!(cache.list(&topics(2), || body(3)), body(3), "another list of equal topics");
    }

    #[test]
    fn a_snapshot_belongs_to_its_position_its_filter_and_its_list() {
        let (mut cache, all, list) = (ReplyCache::default(), topics(3), topics(2));
        let position = Since { epoch: 1, revision: 2 };
        let filter = Some(Arc::new(TopicFilter::new("/*").unwrap()));
        cache.keep_snapshot(position, filter.clone(), Arc::clone(&all), Arc::clone(&list));
        assert!(cache.snapshot_topics(position, filter.as_ref(), &all).is_some());
        assert!(cache.snapshot_topics(position, None, &all).is_none());
        assert!(cache.snapshot_topics(position, filter.as_ref(), &topics(3)).is_none());
        let later = Since { revision: 3, ..position };
        assert!(cache.snapshot_topics(later, filter.as_ref(), &all).is_none());
        assert_eq!(cache.snapshot(&list, || body(1)), body(1));
        assert_eq!(cache.snapshot(&list, || body(2)), body(1));
        cache.clear();
        assert!(cache.snapshot_topics(position, filter.as_ref(), &all).is_none());
    }
}
