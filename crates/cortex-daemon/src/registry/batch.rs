//! The present batch: its answers and effects so far, and its cost.

use std::collections::HashSet;

use cortex_proto::{DiscoveryCommand, DiscoveryRequest, DiscoveryStatus, RequestedCommand};

use super::answer::{Answer, ErrorCause, ReplyContext};
use super::directory::Directory;
use super::effect::{Effects, Miss, NameConflict, Refusal};
use super::input::{PeerRequest, UnreadableRequest};
use super::reply::{Reply, ReplyBody};
use super::reply_cache::ReplyCache;
use super::subscriptions::replies::WakeReplies;
use super::subscriptions::waiters::{Waiter, WakeCondition};
use crate::peer::{ConnectionId, ReplyTo};

/// The answers and effects of the present batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The requests that are decided, in their order. They are answered when the batch ends.
    pub(super) answers: Vec<(PeerRequest, Answer)>,
    pub(super) effects: Effects,
    /// The peers that have disconnected: a request that is decided again must not be parked for them.
    pub(super) disconnected: HashSet<ConnectionId>,
    /// About how much work the batch is, in bytes and steps.
    pub(super) cost: usize,
}

impl Batch {
    /// Keeps the answer to a request until the batch ends.
    pub(super) fn decided(&mut self, request: PeerRequest, answer: Answer, cache: &ReplyCache) {
        self.cost += answer.cost(cache);
        self.answers.push((request, answer));
    }

    /// Turns an answer into a reply, with everything else that follows from it.
    pub(super) fn reply(
        &mut self,
        request: PeerRequest,
        answer: Answer,
        context: &ReplyContext<'_>,
        cache: &mut ReplyCache,
    ) {
        let PeerRequest { reply_to, peer, request, .. } = request;
        match &answer {
            Answer::ShuttingDown => self.effects.stop = true,
            Answer::Error { cause: ErrorCause::Access, message } => {
                self.effects.refused.push(Refusal { peer, message: message.clone() });
            }
            Answer::AlreadyExists { name, node, owner } => {
                let info = request.as_ref().ok().and_then(|request| request.topic_info.as_ref());
                self.effects.conflicts.push(NameConflict {
                    topic: name.clone(),
                    owner_node: node.clone(),
                    owner: *owner,
                    node: info.map(|info| info.publisher_node.clone()).unwrap_or_default(),
                    peer,
                });
            }
            Answer::NotFound { name } if is_search(&request) => {
                self.missed(reply_to.connection, name);
            }
            Answer::Error {
                cause: ErrorCause::Request | ErrorCause::Limit | ErrorCause::Store,
                ..
            }
            | Answer::Pong { .. }
            | Answer::Registered { .. }
            | Answer::Unregistered { .. }
            | Answer::Found { .. }
            | Answer::NotFound { .. }
            | Answer::List { .. }
            | Answer::Events(_)
            | Answer::Snapshot { .. }
            | Answer::Renewed { .. }
            | Answer::Stats(_) => {}
        }
        let wants_ext = match &request {
            Ok(request) => request.wants_ext(),
            Err(unreadable) => unreadable.asks_for_ext,
        };
        let (status, body) = answer.into_reply(wants_ext, context, cache);
        self.push_reply(reply_to, status, body);
    }

    /// Answers the parked requests that wake. Their watches have seen everything up to the revision
    /// `before`.
    pub(super) fn answer_woken(
        &mut self,
        woken: Vec<Waiter>,
        before: u64,
        directory: &Directory,
        context: &ReplyContext<'_>,
        cache: &mut ReplyCache,
    ) {
        let mut watches = WakeReplies::new(context.log, before);
        for Waiter { to, condition, .. } in woken {
            let (status, body) = match condition {
                WakeCondition::Topic(name) => {
                    let answer = if let Some(entry) = directory.find(name.as_str()) {
                        Answer::described(entry, context.now.unix_ms)
                    } else {
                        self.missed(to.connection, name.as_str());
                        Answer::not_found(name.as_str())
                    };
                    answer.into_reply(true, context, cache)
                }
                WakeCondition::Change(_, watch) => {
                    (DiscoveryStatus::Ok, ReplyBody::Packed(watches.reply(watch)))
                }
            };
            self.push_reply(to, status, body);
        }
    }

    fn missed(&mut self, connection: ConnectionId, topic: &str) {
        self.effects.missed.push(Miss { connection, topic: topic.to_owned() });
    }

    pub(super) fn push_reply(&mut self, to: ReplyTo, status: DiscoveryStatus, body: ReplyBody) {
        self.effects.replies.push(Reply { to, status, body });
    }
}

/// Whether the request is a LOOKUP or a WAIT.
fn is_search(request: &Result<Box<DiscoveryRequest>, UnreadableRequest>) -> bool {
    use DiscoveryCommand::{LookupTopic, WaitTopic};
    let searches = [LookupTopic, WaitTopic].map(RequestedCommand::Known);
    request.as_ref().is_ok_and(|request| searches.contains(&request.command))
}
