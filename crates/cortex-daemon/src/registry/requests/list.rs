//! LIST.

use cortex_proto::DiscoveryRequest;

use crate::registry::answer::Answer;
use crate::registry::directory::Directory;
use crate::registry::input::Timestamp;

pub(super) fn list(
    directory: &mut Directory,
    request: &DiscoveryRequest,
    now: Timestamp,
) -> Answer {
    let topics = directory.list();
    let describe = || directory.visible().map(|entry| entry.describe(now.unix_ms)).collect();
    Answer::List { topics, entries: request.wants_ext().then(describe) }
}
