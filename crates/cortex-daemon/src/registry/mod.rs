//! The core: which topics there are, and what each request does to them.
//!
//! It knows no clock, no socket and no file. What happens outside comes in as an [`Input`], what
//! is to be done outside goes out as [`Effect`]s, in order: a test can play a whole fleet's life
//! without either.

mod effect;
mod input;
mod topics;

use std::sync::Arc;

use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryStatus, EncodedResponse, RequestedCommand,
    TopicInfo,
};

pub use effect::{Change, Effect};
pub use input::Input;
use topics::Topics;

/// Bounds for what peers can make the registry keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most topics.
    pub topics: usize,
    /// The most bytes in each of a topic's texts other than its name, which
    /// [`TopicName`](cortex_proto::TopicName) bounds.
    pub field_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { topics: 100_000, field_bytes: 1024 }
    }
}

/// The set of topics and the protocol's rules.
#[derive(Debug, Default)]
pub struct Registry {
    limits: Limits,
    topics: Topics,
    /// The reply to LIST, made when somebody asks and kept until a topic changes.
    list_reply: Option<Arc<[u8]>>,
}

/// A reply, and whether it was the last.
struct Outcome {
    status: DiscoveryStatus,
    reply: Arc<[u8]>,
    change: Option<Change>,
    stop: bool,
}

impl Outcome {
    /// An answer without topics that changes nothing.
    fn answer(status: DiscoveryStatus, message: &str) -> Self {
        Self { status, reply: reply_bytes(status, message), change: None, stop: false }
    }

    fn refused(message: &str) -> Self {
        Self::answer(DiscoveryStatus::Error, message)
    }

    fn not_found(name: &str) -> Self {
        Self::answer(DiscoveryStatus::NotFound, &format!("Topic {name} not found"))
    }

    fn found(reply: Arc<[u8]>) -> Self {
        Self { status: DiscoveryStatus::Ok, reply, change: None, stop: false }
    }
}

/// The bytes of a reply without topics.
#[must_use]
pub fn reply_bytes(status: DiscoveryStatus, message: &str) -> Arc<[u8]> {
    EncodedResponse { status, message, topic_info: None, topics: &[] }.to_bytes().into()
}

impl Registry {
    /// A registry without topics.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Takes what happened and appends what is to be done.
    pub fn handle(&mut self, input: Input, effects: &mut Vec<Effect>) {
        let Input::Request { from, request } = input;
        let Outcome { status, reply, change, stop } = self.answer(request);
        if let Some(change) = change {
            self.list_reply = None;
            effects.push(Effect::Changed(change));
        }
        effects.push(Effect::Reply { to: from, status, body: reply });
        if stop {
            effects.push(Effect::Stop);
        }
    }

    fn answer(&mut self, request: DiscoveryRequest) -> Outcome {
        let command = match request.command {
            RequestedCommand::Known(command) => command,
            RequestedCommand::Unknown(number) => {
                let message = format!("Failed to parse request: {number} is not a known command");
                return Outcome::refused(&message);
            }
        };
        match command {
            DiscoveryCommand::RegisterTopic => self.register(request.topic_info),
            DiscoveryCommand::UnregisterTopic => self.unregister(&request),
            DiscoveryCommand::LookupTopic => self.lookup(request.topic_name.as_deref()),
            DiscoveryCommand::ListTopics => self.list(),
            DiscoveryCommand::Ping => Outcome::answer(DiscoveryStatus::Ok, "pong"),
            DiscoveryCommand::Shutdown => {
                Outcome { stop: true, ..Outcome::answer(DiscoveryStatus::Ok, "Shutting down") }
            }
        }
    }

    fn register(&mut self, info: Option<TopicInfo>) -> Outcome {
        let Some(info) = info else {
            return Outcome::refused("Missing topic_info in register request");
        };
        if let Err(refusal) = self.check_fields(&info) {
            return Outcome::refused(&refusal);
        }
        let existing = self.topics.get(info.name.as_str());
        if let Some(existing) = existing
            && existing.info.publisher_node != info.publisher_node
        {
            let node = &existing.info.publisher_node;
            let message = format!("Topic {} already registered by {node}", info.name);
            return Outcome::answer(DiscoveryStatus::AlreadyExists, &message);
        }
        let is_new = existing.is_none();
        if is_new && self.topics.len() >= self.limits.topics {
            let message = format!(
                "Topic {} is not registered: this daemon holds {} topics and takes no more",
                info.name, self.limits.topics
            );
            return Outcome::refused(&message);
        }
        self.topics.put(info.clone());
        let message = format!("Registered topic: {}", info.name);
        let change = if is_new { Change::Registered(info) } else { Change::Updated(info) };
        Outcome { change: Some(change), ..Outcome::answer(DiscoveryStatus::Ok, &message) }
    }

    fn check_fields(&self, info: &TopicInfo) -> Result<(), String> {
        let most = self.limits.field_bytes;
        let fields = [
            ("address", &info.address),
            ("message_type", &info.message_type),
            ("publisher_node", &info.publisher_node),
        ];
        match fields.into_iter().find(|(_, value)| value.len() > most) {
            None => Ok(()),
            Some((field, value)) => Err(format!(
                "Topic {} is not registered: its {field} has {} bytes, at most {most} are allowed",
                info.name,
                value.len()
            )),
        }
    }

    fn unregister(&mut self, request: &DiscoveryRequest) -> Outcome {
        let in_info = || request.topic_info.as_ref().map(|info| info.name.as_str());
        let Some(name) = non_empty(request.topic_name.as_deref()).or_else(in_info) else {
            return Outcome::refused("Missing topic name in unregister request");
        };
        let Some(removed) = self.topics.remove(name) else {
            return Outcome::not_found(name);
        };
        let message = format!("Unregistered topic: {removed}");
        let change = Some(Change::Unregistered(removed));
        Outcome { change, ..Outcome::answer(DiscoveryStatus::Ok, &message) }
    }

    fn lookup(&self, name: Option<&str>) -> Outcome {
        let Some(name) = non_empty(name) else {
            return Outcome::refused("Missing topic_name in lookup request");
        };
        let Some(entry) = self.topics.get(name) else {
            return Outcome::not_found(name);
        };
        let response = EncodedResponse {
            status: DiscoveryStatus::Ok,
            message: "",
            topic_info: Some(&entry.packed),
            topics: &[],
        };
        Outcome::found(response.to_bytes().into())
    }

    fn list(&mut self) -> Outcome {
        let reply = self.list_reply.get_or_insert_with(|| {
            let topics: Vec<_> = self.topics.iter().map(|entry| &*entry.packed).collect();
            let status = DiscoveryStatus::Ok;
            let response =
                EncodedResponse { status, message: "", topic_info: None, topics: &topics };
            response.to_bytes().into()
        });
        Outcome::found(Arc::clone(reply))
    }
}

/// The reference takes an empty name for none.
fn non_empty(name: Option<&str>) -> Option<&str> {
    name.filter(|name| !name.is_empty())
}
