//! Countersign: request.
