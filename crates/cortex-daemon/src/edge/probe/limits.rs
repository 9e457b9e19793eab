//! The limits of probes.

use std::time::Duration;

/// The longest time that a probe waits for the first byte.
pub(super) const MAX_PATIENCE: Duration = Duration::from_secs(1);
/// The most probes that a helper runs at once.
pub(super) const MAX_IN_HELPER: usize = 64;
/// How long a helper may take to connect to a path. Then it hangs.
pub(super) const PATH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a helper may take to resolve a host name: resolvers try again after 5 s. Until then the
/// name counts as unresolved.
pub(super) const NAME_TIMEOUT: Duration = Duration::from_secs(15);
/// The most probes that a round of the loop starts in each place, so that many of them do not delay
/// the clients.
pub(super) const MAX_ROUND_STARTS: usize = 64;
/// The first byte of a ZMTP greeting.
pub(super) const SIGNATURE: u8 = 0xff;
