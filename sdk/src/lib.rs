//! Countersign: sdk.
