//! The public key infrastructure from outside: one module per promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]

mod certificates;
mod fixture;
mod inspecting;
mod limbo;
mod openssl;
mod parsers;
mod peers;
mod requests;
mod revocation;
mod signing;
mod spiffe;
mod tampering;
