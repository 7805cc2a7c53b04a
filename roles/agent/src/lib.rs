//! Countersign: agent.
