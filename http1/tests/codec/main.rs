//! The codec from outside: other people's cases, bytes in whatever pieces, hyper beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod differential;
mod framing;
mod llhttp;
mod properties;
mod reader;
mod responses;
