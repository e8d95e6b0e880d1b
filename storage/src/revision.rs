//! How often a row was changed, so that nobody overwrites what they have not read.

use crate::column::Count;

/// Counts the changes of a row. A change that names the revision it was made from fails with
/// [`crate::Error::Stale`] where the row has another one by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(u64);

// === impl Revision ===

impl Revision {
    /// The one of a row that was never changed.
    pub const FIRST: Self = Self(1);

    pub(crate) fn read(Count(number): Count) -> Self {
        Self(number)
    }

    pub(crate) fn column(self) -> Count {
        Count(self.0)
    }
}
