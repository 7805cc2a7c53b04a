//! Everything that the store promises, on SQLite and on PostgreSQL: `both!` turns one function into two tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

/// Each function becomes a test on SQLite and one on PostgreSQL (skipped where that is not installed).
macro_rules! both {
    ($($(#[$attribute:meta])* async fn $name:ident($ground:ident: &$kind:ident) $body:block)+) => {
        $($(#[$attribute])* async fn $name($ground: &$kind) $body)+

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&$crate::ground::Ground::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(ground) = $crate::ground::Ground::postgres().await {
                    super::$name(&ground).await;
                }
            })+
        }
    };
}

mod at_rest;
mod bearer;
mod certificates;
mod durability;
mod edges;
mod federation;
mod ground;
mod issued_tokens;
mod join;
mod keys;
mod ledger;
mod meta;
mod opening;
mod policies;
mod revoked;
mod services;
mod token_keys;
mod users;
mod workload_keys;
