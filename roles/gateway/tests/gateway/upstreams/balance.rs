//! Which endpoint of an upstream gets a request.
use std::time::Duration;

use super::{ask, endpoints, gateway};
use crate::rig::backend::{Backend, Reply};
use crate::rig::{Rig, eventually};

#[tokio::test]
async fn requests_are_spread_over_the_endpoints() {
    let rig = Rig::new();
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let edge = gateway(&rig, &endpoints(&[&one, &two])).await;
    for _ in 0..64 {
        assert_eq!(ask(&edge).await.status, 200);
    }
    assert_eq!(one.count() + two.count(), 64);
    assert!(one.count() > 0 && two.count() > 0);
}

#[tokio::test]
async fn an_endpoint_that_is_busy_gets_no_more_while_another_is_free() {
    let rig = Rig::new();
    let slow = Backend::new(|_, _| Reply::Silence).await;
    let fast = Backend::named("fast").await;
    let edge = gateway(&rig, &endpoints(&[&slow, &fast])).await;
    let plain = edge.plain;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        asking.spawn(async move { crate::rig::client::get(plain, "/a", &[]).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // By chance alone it would be fifty each. The slow one keeps what it has, so it gets more only while the fast one
    // has as much to do.
    eventually(|| slow.count() + fast.count() == 100).await;
    assert!(slow.count() < 25, "{} of 100", slow.count());
    asking.abort_all();
}

#[tokio::test]
async fn a_weight_is_heeded() {
    let rig = Rig::new();
    let (light, heavy) = (Backend::named("light").await, Backend::named("heavy").await);
    let toml = format!("endpoints = [\"{}\", \"{} weight=60\"]", light.address, heavy.address);
    let edge = gateway(&rig, &toml).await;
    for _ in 0..100 {
        ask(&edge).await;
    }
    assert!(heavy.count() > 80, "{}", heavy.count());
}
