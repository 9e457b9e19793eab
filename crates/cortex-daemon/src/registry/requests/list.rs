//! LIST.

use cortex_proto::DiscoveryRequest;

use crate::registry::answer::Answer;
use crate::registry::directory::Directory;
use crate::registry::directory::topics::Entry;
use crate::registry::input::Timestamp;
use crate::registry::view::View;

pub(super) fn list(
    directory: &mut Directory,
    view: View,
    request: &DiscoveryRequest,
    now: Timestamp,
) -> Answer {
    let topics = directory.list(view);
    let describe = |entry: &Entry| entry.describe(now.unix_ms);
    let entries = || directory.visible(view).into_iter().map(describe).collect();
    Answer::List { topics, entries: request.wants_ext().then(entries) }
}
