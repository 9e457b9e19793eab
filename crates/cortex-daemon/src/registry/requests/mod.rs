//! What each request does: a handler for each command, which takes only the parts that it needs.

mod cancel;
pub(super) mod decision;
mod list;
mod lookup;
mod ping;
pub(super) mod register;
mod requested_hold;
mod session;
mod shutdown;
mod stats;
mod unregister;
mod wait;
mod watch;

use std::time::Instant;

use cortex_proto::{DiscoveryCommand, RequestedCommand};

use super::answer::Answer;
use super::counters::RegistryCounters;
use super::input::{PeerRequest, Timestamp};
use super::registrations::Registrations;
use super::reply_cache::ReplyCache;
use super::settings::Settings;
use super::subscriptions::Subscriptions;
use super::view::View;
use decision::Decision;
use register::OnDoubt;

/// The parts of the registry from which each handler gets those that it needs.
pub(super) struct RegistryParts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) started: Instant,
    pub(super) registrations: &'a mut Registrations,
    pub(super) view: View,
    pub(super) subscriptions: &'a mut Subscriptions,
    pub(super) cache: &'a mut ReplyCache,
    pub(super) counters: &'a RegistryCounters,
}

/// Decides about a request, and returns about how many steps that took.
pub(super) fn decide(
    parts: RegistryParts<'_>,
    request: &PeerRequest,
    on_doubt: OnDoubt,
    now: Timestamp,
) -> (Decision, usize) {
    let PeerRequest { reply_to, peer, request, .. } = request;
    let request = match request {
        Ok(request) => request,
        Err(unreadable) => return (unparsable(&unreadable.problem).into(), 0),
    };
    let command = match request.command {
        RequestedCommand::Known(command) => command,
        RequestedCommand::Unknown(number) => {
            return (unparsable(&format!("{number} is not a known command")).into(), 0);
        }
    };
    let RegistryParts { settings, started, registrations, view, subscriptions, cache, counters } =
        parts;
    let directory = &mut registrations.directory;
    let decision = match command {
        DiscoveryCommand::RegisterTopic => {
            register::register(registrations, settings, peer, request, on_doubt, now)
        }
        DiscoveryCommand::UnregisterTopic => {
            unregister::unregister(registrations, settings.access, peer, request).into()
        }
        DiscoveryCommand::LookupTopic => lookup::lookup(directory, view, request, now).into(),
        DiscoveryCommand::ListTopics => list::list(directory, view, request, now).into(),
        DiscoveryCommand::Ping => ping::ping(registrations, view).into(),
        DiscoveryCommand::Renew => {
            session::renew(directory, peer, request.ext.as_ref(), now).into()
        }
        DiscoveryCommand::WaitTopic => wait::wait(directory, view, request, now),
        DiscoveryCommand::WatchTopics => return watch::watch(registrations, view, cache, request),
        DiscoveryCommand::Stats => {
            let uptime_ms = now.ms_since(started);
            stats::stats(registrations, view, subscriptions, counters, uptime_ms).into()
        }
        DiscoveryCommand::Cancel => cancel::cancel(subscriptions, reply_to).into(),
        DiscoveryCommand::Shutdown => shutdown::shutdown(settings.access, peer).into(),
    };
    (decision, 0)
}

/// The answer to a request whose change the store cannot keep.
pub(super) fn not_stored(request: &PeerRequest, problem: &str) -> Answer {
    match &request.request {
        Ok(request) if request.command == DiscoveryCommand::UnregisterTopic.into() => {
            unregister::not_stored(request, problem)
        }
        Ok(request) => register::not_stored(request, problem),
        Err(unreadable) => unparsable(&unreadable.problem),
    }
}

fn unparsable(problem: &str) -> Answer {
    Answer::error(format!("Failed to parse request: {problem}"))
}
