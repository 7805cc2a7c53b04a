//! Countersign: wire.
