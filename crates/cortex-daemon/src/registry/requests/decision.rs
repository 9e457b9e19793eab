//! What a handler decides about a request.

use std::time::Duration;

use cortex_proto::TopicName;

use crate::registry::answer::Answer;
use crate::registry::subscriptions::waiters::WakeCondition;

/// What a handler decides about a request.
#[derive(Debug)]
pub(in crate::registry) enum Decision {
    Answer(Answer),
    /// The REGISTER waits until the daemon has judged the topic's owner.
    Pending {
        name: TopicName,
        /// The revision of the registration that stands against it.
        revision: u64,
    },
    /// The request is parked.
    Parked {
        condition: WakeCondition,
        wait: Duration,
    },
}

impl From<Answer> for Decision {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}
