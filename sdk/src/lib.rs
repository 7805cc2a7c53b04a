//! essay

pub mod accept;
pub mod clock;
pub mod outbound;
pub mod tls;
