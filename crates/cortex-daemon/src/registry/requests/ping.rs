//! PING.

use crate::registry::answer::Answer;
use crate::registry::registrations::Registrations;
use crate::registry::view::View;

pub(super) fn ping(registrations: &Registrations, view: View) -> Answer {
    Answer::Pong {
        revision: registrations.log.position(view).revision,
        topics: registrations.directory.count(view) as u64,
    }
}
