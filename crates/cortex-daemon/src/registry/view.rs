//! Which changes a reader of the registry sees.

/// Which changes a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Those that the store has. What the registry answers from this view can be sent at once.
    Committed,
    /// Also those that the store does not have yet. What the registry answers from this view must
    /// wait until the store has them.
    Latest,
}
