//! Countersign: store.
