//! The attacks themselves: each succeeds where its guard is missing, and is blocked where nothing is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod controls;
mod mistakes;
mod specimens;
