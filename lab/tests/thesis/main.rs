//! The thesis's mechanism on real listeners: what it does, and what it lets others do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod algorithm;
mod exchange;
mod handshake;
mod listings;
mod rig;
mod weaknesses;
