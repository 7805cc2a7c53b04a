//! Stories: what a person does with the real binary, over real sockets and processes, and what must come of it.
//! Clients that others wrote (curl, openssl) stand in for browsers and foreign services.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]
#![allow(unreachable_pub, reason = "nothing links a test")]

mod advise;
mod attack;
mod bench;
mod captured;
mod deployment;
mod durability;
mod front_door;
mod keys;
mod ledger;
mod lifecycle;
mod modes;
mod observed;
mod openssl;
mod revocation;
mod schema;
mod services;
mod sidecars;
mod standalone;
mod switching;
mod tokens;
mod world;
