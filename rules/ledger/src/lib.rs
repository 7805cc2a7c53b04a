//! Countersign: ledger.
