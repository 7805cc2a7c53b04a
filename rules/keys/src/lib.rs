//! Countersign: keys.
