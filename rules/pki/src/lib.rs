//! Countersign: pki.
