//! Countersign: authority.
