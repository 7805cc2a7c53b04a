//! The attacks of `tests/thesis/weaknesses.rs`, under the same numbers, against the form that runs here: mode `jwt`,
//! at the door that every service has. Each of them fails, and the ledger knows why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod attacks;
mod caller;
// One deployment in one process, the one of the SDK's own tests.
#[path = "../../../sdk/tests/sockets/deployment.rs"]
#[allow(dead_code, reason = "more is tested there")]
mod deployment;
#[path = "../../../sdk/tests/sockets/desk.rs"]
#[allow(dead_code, reason = "more is tested there")]
mod desk;
