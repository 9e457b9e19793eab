//! The topics at each endpoint, by the node that has registered them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cortex_proto::{TopicInfo, TopicName};

/// The topics of each node at each address. No set is empty.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    by_address: HashMap<String, BTreeMap<String, BTreeSet<TopicName>>>,
}

impl Endpoints {
    pub(super) fn add(&mut self, info: &TopicInfo) {
        let nodes = self.by_address.entry(info.address.clone()).or_default();
        nodes.entry(info.publisher_node.clone()).or_default().insert(info.name.clone());
    }

    pub(super) fn remove(&mut self, info: &TopicInfo) {
        let Some(nodes) = self.by_address.get_mut(&info.address) else { return };
        if let Some(names) = nodes.get_mut(&info.publisher_node) {
            names.remove(&info.name);
            if names.is_empty() {
                nodes.remove(&info.publisher_node);
            }
        }
        if nodes.is_empty() {
            self.by_address.remove(&info.address);
        }
    }

    /// The topics at the address of this one that other nodes have registered.
    pub(super) fn of_other_nodes(&self, info: &TopicInfo) -> impl Iterator<Item = &TopicName> {
        let nodes = self.by_address.get(&info.address).into_iter().flatten();
        let others = nodes.filter(|(node, _)| **node != info.publisher_node);
        others.flat_map(|(_, names)| names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, address: &str, node: &str) -> TopicInfo {
        TopicInfo {
            name: TopicName::new(name).unwrap(),
            address: address.into(),
            message_type: "M".into(),
            fingerprint: 1,
            publisher_node: node.into(),
        }
    }

    #[test]
    fn the_topics_of_other_nodes_at_an_address_are_found() {
        let mut endpoints = Endpoints::default();
        let topics = [
            info("/a", "tcp://h:1", "n"),
            info("/b", "tcp://h:1", "m"),
            info("/c", "tcp://h:1", "n"),
            info("/d", "tcp://h:2", "m"),
        ];
        for topic in &topics {
            endpoints.add(topic);
        }
        let others = |endpoints: &Endpoints, topic: &TopicInfo| -> Vec<String> {
            endpoints.of_other_nodes(topic).map(ToString::to_string).collect()
        };
        assert_eq!(others(&endpoints, &topics[1]), ["/a", "/c"]);
        assert_eq!(others(&endpoints, &topics[0]), ["/b"]);
        assert_eq!(others(&endpoints, &topics[3]), [""; 0]);
        endpoints.remove(&topics[0]);
        assert_eq!(others(&endpoints, &topics[1]), ["/c"]);
        for topic in &topics {
            endpoints.remove(topic);
        }
        assert!(endpoints.by_address.is_empty());
    }
}
