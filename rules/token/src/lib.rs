//! Countersign: token.
