//! Evidence that a dead owner's endpoint is still served by the publisher that it was registered
//! for: a process may register a topic for another one.

use crate::peer::{EndpointListener, Process};
use crate::registry::input::ProbeResult;

/// What is known of a topic whose owner has ended or is unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Registration {
    pub(in crate::registry) owner: Option<Process>,
    /// When the topic was registered, in clock ticks since boot.
    pub(in crate::registry) registered_ticks: u64,
    /// Whether the daemon has started since the registration.
    pub(in crate::registry) is_restored: bool,
    /// What listened at the endpoint after the registration; `None` when no probe has seen it.
    pub(in crate::registry) listener: Option<EndpointListener>,
    /// Whether a probe once found the endpoint alive.
    pub(in crate::registry) found_alive: bool,
    /// Whether another socket listens there than before, and another node has registered the
    /// endpoint since.
    pub(in crate::registry) is_taken_over: bool,
}

/// What a probe says about a dead owner's topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The publisher that the topic was registered for serves the endpoint.
    Served,
    /// A TCP listener that looks like the publisher's accepts connections and is silent. It may be
    /// the publisher, stopped by a debugger, or a forked child that never serves.
    Silent,
    /// There is none.
    None,
}

/// A process that serves an endpoint keeps the topic when it served the endpoint at the registration
/// and is not the dead owner itself. `Process` listeners with a pid that no process has any more
/// never equal a recorded one.
pub(super) fn judge(
    registration: &Registration,
    result: ProbeResult,
    listener: Option<EndpointListener>,
) -> Evidence {
    let is_same = match (listener, registration.listener) {
        (Some(found), Some(recorded)) => found == recorded,
        // The owner ended before the first probe: a listener that was there before counts.
        (Some(EndpointListener::Process(found)), None) => {
            found.start_time <= registration.registered_ticks
        }
        // The kernel does not tell a socket's age. While the daemon runs, the first probe follows
        // the registration at once; over a restart, another socket may have taken the port.
        (Some(EndpointListener::Socket(_)), None) => !registration.is_restored,
        (None, _) => false,
    };
    let is_owner = match listener {
        Some(EndpointListener::Process(found)) => Some(found) == registration.owner,
        Some(EndpointListener::Socket(_)) | None => false,
    };
    match (result, listener) {
        _ if !is_same || is_owner => Evidence::None,
        // Of a Unix socket the kernel names the process that listens: its silence does not matter.
        (ProbeResult::Alive, _) | (ProbeResult::Silent, Some(EndpointListener::Process(_))) => {
            Evidence::Served
        }
        (ProbeResult::Silent, _) => Evidence::Silent,
        (ProbeResult::Dead | ProbeResult::Unreachable | ProbeResult::Unknown(_), _) => {
            Evidence::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::input::UnknownReason;

    fn process(pid: u32, start_time: u64) -> Process {
        Process { pid, start_time }
    }

    /// Registered by process 10 at tick 1000, served by process 5.
    fn registration(listener: Option<EndpointListener>) -> Registration {
        Registration {
            owner: Some(process(10, 900)),
            registered_ticks: 1000,
            is_restored: false,
            listener,
            found_alive: listener.is_some(),
            is_taken_over: false,
        }
    }

    const PUBLISHER: Option<EndpointListener> =
        Some(EndpointListener::Process(Process { pid: 5, start_time: 500 }));

    #[expect(clippy::unnecessary_wraps, reason = "a listener may be unknown")]
    fn unix(pid: u32, start_time: u64) -> Option<EndpointListener> {
        Some(EndpointListener::Process(process(pid, start_time)))
    }

    #[test]
    fn the_recorded_listener_is_evidence_and_no_other_process() {
        let recorded = registration(PUBLISHER);
        for result in [ProbeResult::Alive, ProbeResult::Silent] {
            assert_eq!(judge(&recorded, result, PUBLISHER), Evidence::Served);
            assert_eq!(judge(&recorded, result, unix(6, 400)), Evidence::None, "a newcomer");
            assert_eq!(judge(&recorded, result, unix(5, 501)), Evidence::None, "its pid again");
            assert_eq!(judge(&recorded, result, None), Evidence::None);
        }
    }

    #[test]
    fn the_dead_owner_itself_is_no_evidence() {
        let own = registration(unix(10, 900));
        assert_eq!(judge(&own, ProbeResult::Silent, unix(10, 900)), Evidence::None);
        let unrecorded = registration(None);
        assert_eq!(judge(&unrecorded, ProbeResult::Alive, unix(10, 900)), Evidence::None);
        assert_eq!(judge(&unrecorded, ProbeResult::Alive, unix(10, u64::MAX)), Evidence::None);
    }

    #[test]
    fn before_the_first_probe_a_listener_counts_that_is_older_than_the_registration() {
        let unrecorded = registration(None);
        assert_eq!(judge(&unrecorded, ProbeResult::Alive, unix(6, 1000)), Evidence::Served);
        assert_eq!(judge(&unrecorded, ProbeResult::Alive, unix(6, 1001)), Evidence::None);
    }

    #[test]
    fn a_tcp_socket_must_be_the_recorded_one_and_must_greet() {
        let recorded = registration(Some(EndpointListener::Socket(7)));
        let socket = |inode| Some(EndpointListener::Socket(inode));
        assert_eq!(judge(&recorded, ProbeResult::Alive, socket(7)), Evidence::Served);
        assert_eq!(judge(&recorded, ProbeResult::Silent, socket(7)), Evidence::Silent);
        assert_eq!(judge(&recorded, ProbeResult::Alive, socket(8)), Evidence::None);
        assert_eq!(judge(&recorded, ProbeResult::Alive, None), Evidence::None);
    }

    #[test]
    fn over_a_restart_a_tcp_socket_without_a_record_is_no_evidence() {
        let unrecorded = registration(None);
        let restored = Registration { is_restored: true, ..unrecorded };
        let socket = Some(EndpointListener::Socket(7));
        assert_eq!(judge(&unrecorded, ProbeResult::Alive, socket), Evidence::Served);
        assert_eq!(judge(&restored, ProbeResult::Alive, socket), Evidence::None);
        let recorded = Registration { is_restored: true, ..registration(socket) };
        assert_eq!(judge(&recorded, ProbeResult::Alive, socket), Evidence::Served);
    }

    #[test]
    fn what_does_not_answer_or_cannot_be_judged_is_no_evidence() {
        let recorded = registration(PUBLISHER);
        for result in [
            ProbeResult::Dead,
            ProbeResult::Unreachable,
            ProbeResult::Unknown(UnknownReason::Permission),
        ] {
            assert_eq!(judge(&recorded, result, None), Evidence::None);
        }
    }
}
