//! PING.

use crate::registry::answer::Answer;
use crate::registry::registrations::Registrations;

pub(super) fn ping(registrations: &Registrations) -> Answer {
    Answer::Pong {
        revision: registrations.log.position().revision,
        topics: registrations.directory.len() as u64,
    }
}
