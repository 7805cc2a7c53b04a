//! Countersign: accounts.
