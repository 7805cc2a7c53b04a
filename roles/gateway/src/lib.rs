//! Countersign: gateway.
