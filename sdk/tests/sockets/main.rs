//! The SDK through real sockets: a deployment in one process, with certificates made by `pki`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod batches;
mod callers;
mod calls;
mod claims;
mod clocks;
mod deployment;
mod desk;
mod door;
mod evidence;
mod files;
mod handshake;
mod ledger;
mod lifetime;
mod limits;
mod modes;
mod one_snapshot;
mod refusals;
mod rotation;
mod sts;
mod user_context;
mod users_at_the_door;
mod validations;
mod warm;
mod words;
