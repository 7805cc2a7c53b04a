//! Certificates through the API: each is durable, with its events in the ledger, before its answer leaves. Beside it
//! the least that any authority must do: verify one signature and make another.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::csr;
use countersign_testkit::measure::{Tally, per_cpu_second};
use countersign_wire::Base64;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::deployment::Deployment;
use crate::processes::Processes;

pub(crate) async fn issued(deployment: &Deployment, processes: &Processes) {
    let bare = bare();
    println!("\ncertificates through the API (admin.sock, SQLite, synchronous=FULL)");
    println!("one small write with fsync here: {:.2} ms (median)", fsync_ms(deployment));
    println!("bare verify + sign                    {bare:>8.0} per CPU second");
    for (clients, count) in [(1, 1000), (16, 4000)] {
        let body = order();
        let (before, tally) = (processes.cpu_of("authority"), Arc::new(Tally::of(count)));
        let asking: Vec<_> = (0..clients)
            .map(|_| {
                tokio::spawn(ask(deployment.state().join("admin.sock"), body.clone(), Arc::clone(&tally)))
            })
            .collect();
        for client in asking {
            client.await.unwrap();
        }
        let figures = tally.finish();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let figures = figures.costing(processes.cpu_of("authority") - before);
        println!(
            "API, {clients:>2} at a time, {count} of them      {:>8.0} per CPU second, {:.0} per second, p50 {:.1} ms; ratio {:.1} to bare",
            figures.per_cpu_second(),
            figures.per_second(),
            figures.latency_ms(0.50),
            bare / figures.per_cpu_second(),
        );
    }
}

async fn ask(socket: std::path::PathBuf, body: Bytes, tally: Arc<Tally>) {
    let stream = UnixStream::connect(&socket).await.unwrap();
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    while let Some(started) = tally.next() {
        let request = http::Request::post("/api/v1/certificates")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body.clone()));
        send.ready().await.unwrap();
        let answer = send.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        tally.ended(started);
    }
}

fn order() -> Bytes {
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let csr = Base64(csr::make(&key, None).unwrap()).to_text();
    serde_json::json!({ "service": "chat", "csr": csr }).to_string().into()
}

/// Over as many bytes as the signed parts of a request and of a certificate have.
fn bare() -> f64 {
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let (asked, granted) = (vec![7; 180], vec![8; 480]);
    let possession = key.sign_asn1(&asked).unwrap();
    per_cpu_second(|| {
        key.public_key().verify_asn1(&asked, &possession).unwrap();
        key.sign_asn1(&granted).unwrap()
    })
}

fn fsync_ms(deployment: &Deployment) -> f64 {
    let file = std::fs::File::create(deployment.scratch("disk").join("probe")).unwrap();
    let mut took: Vec<f64> = (0..100)
        .map(|_| {
            let began = Instant::now();
            // In place, as a write-ahead log is written that has grown before.
            file.write_all_at(&[0; 4096], 0).unwrap();
            file.sync_data().unwrap();
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}
