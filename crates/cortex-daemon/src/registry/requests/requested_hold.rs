//! Holds and sessions as a request names them.

use cortex_proto::{Hold as WireHold, RequestExt, Session as RequestedSession};

use crate::registry::log::record::Hold;

const DEFAULT_LEASE_MS: u64 = 10_000;
const MIN_LEASE_MS: u64 = 500;
const MAX_LEASE_MS: u64 = 24 * 60 * 60 * 1000;
const MAX_ID_BYTES: usize = 64;

/// The hold that a REGISTER asks for.
pub(super) fn requested_hold(ext: Option<&RequestExt>) -> Result<Hold, String> {
    let Some(ext) = ext else { return Ok(Hold::Process) };
    match (&ext.hold, &ext.session) {
        (None | Some(WireHold::Process), None) => Ok(Hold::Process),
        (Some(WireHold::Static), None) => Ok(Hold::Static),
        (None | Some(WireHold::Session), Some(session)) => {
            check_session_id(&session.id)?;
            Ok(Hold::Session { id: session.id.clone(), lease_ms: granted_lease_ms(session) })
        }
        (Some(WireHold::Session), None) => {
            Err("ext.session is missing: a session has an id".into())
        }
        (Some(WireHold::Other(word)), _) => Err(format!(
            "ext.hold is `{}`, and can be process, session or static",
            word.chars().take(64).collect::<String>()
        )),
        (Some(hold @ (WireHold::Process | WireHold::Static)), Some(_)) => {
            Err(format!("ext.hold is {hold}, and ext.session is there: only one can keep a topic"))
        }
    }
}

pub(super) fn check_session_id(id: &str) -> Result<(), String> {
    match id.len() {
        1..=MAX_ID_BYTES => Ok(()),
        length => {
            Err(format!("ext.session.id has {length} bytes, 1 to {MAX_ID_BYTES} are allowed"))
        }
    }
}

/// The lease that a session gets, in ms: what it asks for, within bounds.
pub(super) fn granted_lease_ms(session: &RequestedSession) -> u64 {
    session.lease_ms.unwrap_or(DEFAULT_LEASE_MS).clamp(MIN_LEASE_MS, MAX_LEASE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(asked: Option<u64>) -> u64 {
        granted_lease_ms(&RequestedSession { id: "s".into(), lease_ms: asked })
    }

    #[test]
    fn a_lease_has_bounds_and_a_default() {
        assert_eq!(lease(None), 10_000);
        assert_eq!([Some(0), Some(499), Some(501)].map(lease), [500, 500, 501]);
        assert_eq!(lease(Some(u64::MAX)), 24 * 60 * 60 * 1000);
    }

    #[test]
    fn a_session_id_has_1_to_64_bytes() {
        assert!(check_session_id("").is_err() && check_session_id(&"x".repeat(65)).is_err());
        assert!(check_session_id("x").is_ok() && check_session_id(&"x".repeat(64)).is_ok());
    }
}
