//! One thread for each core: they share an address, its limits, and their end.
use std::sync::Arc;

use crate::rig::client::get;
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, settings};
use countersign_gateway::{Gateway, GatewayError};
use countersign_identity::SpiffeId;
use tokio::net::TcpStream;

const ROUTES: &str = "[[route]]\npath = \"/open/*\"\nto = \"ads\"\nuser = \"optional\"\n";
const RULES: &str = "@id(\"open\")\npermit (principal, action, resource);";

#[tokio::test]
async fn all_workers_serve_one_address() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &seen)).await;
    let edge = rig.gateway(&format!("workers = 4\n{ROUTES}")).await;
    let asked = futures::future::join_all((0..64).map(|_| get(edge.plain, "/open/a", &[]))).await;
    assert!(asked.iter().all(|answer| answer.status == 200), "{asked:?}");
    assert_eq!(seen.count(), 64);
    edge.shutdown.cancel();
    edge.task.await.unwrap();
    assert!(TcpStream::connect(edge.plain).await.is_err(), "every worker has left");
}

#[tokio::test]
async fn a_port_is_not_shared_with_another_gateway() {
    let rig = Rig::new();
    let edge = rig.gateway(ROUTES).await;
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "second").unwrap()).await;
    let settings = settings(&format!("listen = \"{}\"\n{ROUTES}", edge.plain));
    let refused = Gateway::bind(settings, workload, Arc::new(String::new)).await.err().unwrap();
    assert!(matches!(refused, GatewayError::Listen { .. }), "{refused}");
}

#[tokio::test]
async fn who_drops_a_gateway_ends_its_workers() {
    let rig = Rig::new();
    let edge = rig.gateway(ROUTES).await;
    edge.task.abort();
    let mut left = 100;
    while TcpStream::connect(edge.plain).await.is_ok() {
        left -= 1;
        assert!(left > 0, "the workers go on without their gateway");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
