//! Countersign: identity.
