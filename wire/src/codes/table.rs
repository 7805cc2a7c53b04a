//! The table. One row per code: number, name, stage, public code, retryable, exit code; what happened; why that
//! is an error; what to try. Numbers are never reused.

use super::{Entry, Exit, Public, Stage};

// Rows are handed on from file to file and end in one list, so that it is one enum in the order of the numbers.
#[macro_use]
mod operations;
#[macro_use]
mod decisions;
#[macro_use]
mod requests;

requests! {}
