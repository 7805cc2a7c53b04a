//! Countersign: policy.
