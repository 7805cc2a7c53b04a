//! The six services. Each is a state, a router and its handlers; none knows how anybody is
//! authenticated, because the SDK's layer stands in front of it.

pub mod ads;
pub mod chat;
pub mod media;
pub mod reports;
pub mod subscriptions;
pub mod users;
