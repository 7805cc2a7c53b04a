//! Which endpoint of an upstream gets a request.
use std::time::Duration;

use super::{ask, endpoints, gateway};
use crate::rig::Rig;
use crate::rig::backend::{Backend, Reply};

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
    // Until the slow one has one request, any may go there; from then on none does.
    let plain = edge.plain;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..400 {
        if slow.count() > 0 {
            break;
        }
        waiting.spawn(async move { crate::rig::client::get(plain, "/a", &[]).await.status });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..50 {
        assert_eq!(ask(&edge).await.body, "fast");
    }
    assert_eq!(slow.count(), 1);
    waiting.abort_all();
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
