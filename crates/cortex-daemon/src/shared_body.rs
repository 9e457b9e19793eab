//! When a reply body is shared. The transport and the registry must agree on it.

/// A reply body of at least this many bytes is shared by the peers that get it. A shorter one is
/// copied for each.
pub(crate) const SHARED_BODY_BYTES: usize = 4096;
