//! What the daemon must do after the present round: the effects so far, and how much work they are.

use cortex_proto::{DiscoveryCommand, DiscoveryRequest, DiscoveryStatus, RequestedCommand};

use super::answer::{Answer, ErrorCause, ReplyContext};
use super::directory::Directory;
use super::effect::{Effects, Miss, NameConflict, ProbeRequest, Refusal};
use super::input::{PeerRequest, UnreadableRequest};
use super::reply::{Reply, ReplyBody};
use super::reply_cache::ReplyCache;
use super::subscriptions::replies::WakeReplies;
use super::subscriptions::waiters::{Waiter, WakeCondition};
use super::view::View;
use crate::peer::{ConnectionId, ReplyTo};

/// The effects of the present round.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) effects: Effects,
    /// The probes for registrations that are not committed. The revision of such a registration can
    /// be given to another one, so they wait.
    held_probes: Vec<ProbeRequest>,
    /// About how much work the round is, in bytes and steps.
    pub(super) cost: usize,
}

impl Outbox {
    /// Takes the effects. Probes for registrations after the revision `committed` wait.
    pub(super) fn take(&mut self, committed: u64) -> Effects {
        self.cost = 0;
        let mut effects = std::mem::take(&mut self.effects);
        if !(effects.probe.is_empty() && self.held_probes.is_empty()) {
            let mut probes = std::mem::take(&mut self.held_probes);
            probes.append(&mut effects.probe);
            (effects.probe, self.held_probes) =
                probes.into_iter().partition(|probe| probe.revision <= committed);
        }
        effects
    }

    /// Forgets the probes for registrations after the revision `committed`: these were rolled back.
    pub(super) fn forget_uncommitted_probes(&mut self, committed: u64) {
        self.held_probes.clear();
        self.effects.probe.retain(|probe| probe.revision <= committed);
    }

    /// Notes that requests of a connection that waited get no reply.
    pub(super) fn cancelled(&mut self, connection: ConnectionId, count: usize) {
        self.effects.cancelled.extend(std::iter::repeat_n(connection, count));
    }

    /// Turns an answer into a reply, with everything else that follows from it.
    pub(super) fn reply(
        &mut self,
        request: PeerRequest,
        answer: Answer,
        context: &ReplyContext<'_>,
        cache: &mut ReplyCache,
    ) {
        self.note(&request, &answer);
        let wants_ext = match &request.request {
            Ok(request) => request.wants_ext(),
            Err(unreadable) => unreadable.asks_for_ext,
        };
        let (status, body) = answer.into_reply(wants_ext, context, cache);
        self.push_reply(request.reply_to, status, body);
    }

    /// Notes what follows from an answer beside its reply.
    pub(super) fn note(&mut self, request: &PeerRequest, answer: &Answer) {
        let PeerRequest { reply_to, peer, request, .. } = request;
        match answer {
            Answer::ShuttingDown => self.effects.stop = true,
            Answer::Error { cause: ErrorCause::Access, message } => {
                self.effects.refused.push(Refusal { peer: *peer, message: message.clone() });
            }
            Answer::AlreadyExists { name, node, owner } => {
                let info = request.as_ref().ok().and_then(|request| request.topic_info.as_ref());
                self.effects.conflicts.push(NameConflict {
                    topic: name.clone(),
                    owner_node: node.clone(),
                    owner: *owner,
                    node: info.map(|info| info.publisher_node.clone()).unwrap_or_default(),
                    peer: *peer,
                });
            }
            Answer::NotFound { name } if is_search(request) => {
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
            | Answer::Cancelled { .. }
            | Answer::Stats(_) => {}
        }
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
                    let answer = if let Some(entry) = directory.find(name.as_str(), View::Committed)
                    {
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
