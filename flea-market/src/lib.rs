//! Countersign: flea-market.
