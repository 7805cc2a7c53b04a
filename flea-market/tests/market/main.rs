//! The six services over real mTLS: one process, a CA, an agent socket for each of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../../../sdk/tests/sockets/deployment.rs"]
#[allow(dead_code, unused_imports)]
mod deployment;
#[path = "../../../sdk/tests/sockets/desk.rs"]
#[allow(dead_code)]
mod desk;

mod bad_input;
mod callers;
mod deals;
mod people;
mod previews;
mod running;
mod square;
