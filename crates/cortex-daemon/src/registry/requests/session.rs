//! RENEW.

use cortex_proto::RequestExt;

use super::requested_hold::{check_session_id, granted_lease_ms};
use crate::peer::PeerIdentity;
use crate::registry::answer::Answer;
use crate::registry::directory::Directory;
use crate::registry::directory::sessions::SessionKey;
use crate::registry::input::Timestamp;

pub(super) fn renew(
    directory: &mut Directory,
    peer: &PeerIdentity,
    ext: Option<&RequestExt>,
    now: Timestamp,
) -> Answer {
    let Some(session) = ext.and_then(|ext| ext.session.as_ref()) else {
        return Answer::error("Missing ext.session in renew request");
    };
    if let Err(problem) = check_session_id(&session.id) {
        return Answer::error(format!("The session is not renewed: {problem}"));
    }
    let key = SessionKey { uid: peer.uid, id: session.id.clone() };
    let lease_ms = directory.renew_session(&key, now.instant);
    Answer::Renewed {
        lease_ms: lease_ms.unwrap_or_else(|| granted_lease_ms(session)),
        is_known: lease_ms.is_some(),
    }
}
