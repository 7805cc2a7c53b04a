//! The example of `docs/gateway.md` is all that a simple proxy takes.
use countersign_identity::SpiffeId;

use crate::rig::Rig;
use crate::rig::backend::Backend;
use crate::rig::client::get;

#[tokio::test]
async fn a_simple_proxy_takes_ten_lines_at_most_and_they_stand_in_the_documentation() {
    let docs = include_str!("../../../../../docs/gateway.md");
    let after = docs.split_once("## A proxy in a few lines").unwrap().1;
    let example = after.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    assert!(example.lines().count() <= 10, "{example}");
    let rig = Rig::new();
    let backend = Backend::named("proxied").await;
    rig.policy("gateway", super::ALL);
    // As documented, but on ports that are free here.
    let example = example
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9000", &backend.address.to_string());
    let file: toml::Table = example.parse().unwrap();
    assert!(["identity", "policy", "gateway"].iter().all(|table| file.contains_key(*table)));
    let gateway = toml::to_string(&file["gateway"]).unwrap().replace("listen = \"127.0.0.1:0\"\n", "");
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let edge = rig.gateway_of(workload, &gateway).await;
    assert_eq!(get(edge.plain, "/whatever", &[]).await.body, "proxied");
}
