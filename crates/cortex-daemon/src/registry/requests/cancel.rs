//! CANCEL.

use crate::peer::ReplyTo;
use crate::registry::answer::Answer;
use crate::registry::subscriptions::Subscriptions;

/// A CANCEL ends the parked requests to which the replies would go where its own reply goes: those
/// of the same connection with the same envelope. So behind a proxy, whose clients share a
/// connection, no client can end the requests of another one.
pub(super) fn cancel(subscriptions: &mut Subscriptions, reply_to: &ReplyTo) -> Answer {
    Answer::Cancelled { count: subscriptions.cancel_requests(reply_to) }
}
