//! Where each service keeps its own: an SQLite file, or a PostgreSQL database of its own.
//!
//! One set of SQL for both. Each service has a file of statements here and a schema beside it; no
//! service opens another one's database, and a database remembers whose it is.

mod ads;
mod chat;
mod db;
mod media;
mod reports;
mod subscriptions;
mod users;

pub use ads::{Ad, AdStore, AdToKeep, Nearby, Taken};
pub use chat::{ChatStore, Conversation, Message};
pub use db::{Db, StoreError};
pub use media::{MediaStore, Picture};
pub use reports::{Report, ReportStore};
pub use subscriptions::{Notification, Search, SearchToKeep, SubscriptionStore};
pub use users::{Profile, UserStore};
