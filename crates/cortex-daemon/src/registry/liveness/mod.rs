//! Whether the topics' publishers still live.

pub(super) mod pending_registers;
pub(super) mod probe_schedule;
mod publishers;
