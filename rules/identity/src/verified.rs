//! The mark that something was checked.

use std::ops::Deref;

/// A `T` that somebody vouches for. Unverified data cannot reach a decision because the decision
/// asks for this type, and its only constructor is the greppable word [`Verified::vouch`].
///
/// Deliberately neither `Deserialize` nor `Default`: a checked thing comes from a check alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// States that `checked` has been verified. Called by the checkers alone; the repository's
    /// `tidy` test lists the files that may contain this word.
    #[must_use]
    pub const fn vouch(checked: T) -> Self {
        Self(checked)
    }

    /// The checked thing.
    #[must_use]
    pub const fn get(&self) -> &T {
        &self.0
    }

    /// The checked thing, without the mark.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_exactly_what_was_vouched_for() {
        let checked = Verified::vouch(7_u8);
        assert_eq!(*checked.get(), 7);
        assert_eq!(*checked, 7);
        assert_eq!(checked.into_inner(), 7);
    }
}
