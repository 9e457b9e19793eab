//! REGISTERs that the daemon would refuse, and that wait until it has judged the topic's owner.
//! A client of the legacy protocol sends its REGISTER once and never again.

use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use crate::peer::{ConnectionId, PeerIdentity};
use crate::registry::input::PeerRequest;

/// The longest time that a REGISTER may wait: a C++ client gives up after 1 s.
pub(in crate::registry) const MAX_REGISTER_WAIT: Duration = Duration::from_millis(300);
/// The most REGISTERs of one user that wait: the daemon refuses those beyond at once.
const MAX_PER_USER: usize = 64;
/// The most REGISTERs of all users that wait.
const MAX: usize = 256;

/// A REGISTER that waits.
#[derive(Debug)]
pub(in crate::registry) struct PendingRegister {
    pub(in crate::registry) request: PeerRequest,
    pub(in crate::registry) name: TopicName,
    /// The revision of the registration that stands against it.
    pub(in crate::registry) revision: u64,
    /// The last moment at which the daemon answers.
    pub(in crate::registry) end: Instant,
}

/// The REGISTERs that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(in crate::registry) struct PendingRegisters(Vec<PendingRegister>);

impl PendingRegisters {
    pub(in crate::registry) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one more REGISTER of this peer's user may wait.
    pub(in crate::registry) fn have_room_for(&self, peer: &PeerIdentity) -> bool {
        let of_user = self.0.iter().filter(|pending| pending.request.peer.uid == peer.uid);
        self.0.len() < MAX && of_user.count() < MAX_PER_USER
    }

    pub(in crate::registry) fn add(&mut self, pending: PendingRegister) {
        self.0.push(pending);
    }

    /// Whether a REGISTER of this name waits.
    pub(in crate::registry) fn contains(&self, name: &TopicName) -> bool {
        self.0.iter().any(|pending| pending.name == *name)
    }

    /// Whether a REGISTER waits that gives this name to this endpoint.
    pub(in crate::registry) fn names_endpoint(&self, name: &TopicName, address: &str) -> bool {
        self.0.iter().filter(|pending| pending.name == *name).any(|pending| {
            let info = pending.request.request.as_ref().ok().and_then(|it| it.topic_info.as_ref());
            info.is_some_and(|info| info.address == address)
        })
    }

    /// Takes the REGISTERs that `is_over` picks, in the order in which they came.
    pub(in crate::registry) fn take(
        &mut self,
        is_over: impl Fn(&PendingRegister) -> bool,
    ) -> Vec<PendingRegister> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let (over, waiting) = std::mem::take(&mut self.0).into_iter().partition(is_over);
        self.0 = waiting;
        over
    }

    /// Forgets the REGISTERs of a connection, and returns how many it had.
    pub(in crate::registry) fn cancel(&mut self, connection: ConnectionId) -> usize {
        self.take(|pending| pending.request.reply_to.connection == connection).len()
    }

    /// When the first REGISTER must be answered.
    pub(in crate::registry) fn next_end(&self) -> Option<Instant> {
        self.0.iter().map(|pending| pending.end).min()
    }
}

#[cfg(test)]
mod tests {
    use cortex_proto::DiscoveryRequest;

    use super::*;
    use crate::peer::ReplyTo;
    use crate::registry::test_time::start;
    use crate::zmtp::Envelope;

    fn peer(uid: u32) -> PeerIdentity {
        PeerIdentity { uid: Some(uid), ..PeerIdentity::default() }
    }

    fn pending(uid: u32, name: &str) -> PendingRegister {
        let reply_to = ReplyTo { connection: ConnectionId(7), envelope: Envelope::default() };
        let request = Ok(Box::new(DiscoveryRequest::ping()));
        PendingRegister {
            request: PeerRequest { reply_to, peer: peer(uid), is_req: false, request },
            name: TopicName::new(name).unwrap(),
            revision: 1,
            end: start() + MAX_REGISTER_WAIT,
        }
    }

    #[test]
    fn each_user_and_all_users_together_have_a_bound() {
        let mut registers = PendingRegisters::default();
        for uid in 0..4 {
            for number in 0..MAX_PER_USER {
                assert!(registers.have_room_for(&peer(uid)));
                assert!(registers.have_room_for(&peer(5)));
                assert_eq!(registers.len(), uid as usize * MAX_PER_USER + number);
                registers.add(pending(uid, "/a"));
            }
            assert!(!registers.have_room_for(&peer(uid)));
        }
        assert!(!registers.have_room_for(&peer(5)), "{} wait", registers.len());
    }

    #[test]
    fn the_first_end_counts() {
        let mut registers = PendingRegisters::default();
        assert_eq!(registers.next_end(), None);
        let first = pending(1, "/a");
        let (end, later) = (first.end, first.end + Duration::from_millis(1));
        registers.add(PendingRegister { end: later, ..pending(1, "/b") });
        registers.add(first);
        assert_eq!(registers.next_end(), Some(end));
        assert_eq!(registers.take(|pending| pending.end <= end).len(), 1);
        assert_eq!(registers.next_end(), Some(later));
    }

    #[test]
    fn a_name_is_contained_as_long_as_a_register_of_it_waits() {
        let mut registers = PendingRegisters::default();
        let names = ["/a", "/b"].map(|name| TopicName::new(name).unwrap());
        registers.add(pending(1, "/a"));
        assert_eq!(names.each_ref().map(|name| registers.contains(name)), [true, false]);
        assert_eq!(registers.cancel(ConnectionId(7)), 1);
        assert!(!registers.contains(&names[0]));
        assert_eq!((registers.len(), registers.next_end()), (0, None));
    }
}
