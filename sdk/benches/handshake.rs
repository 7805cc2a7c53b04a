//! What a full mutual handshake costs each side in memory, one thread, beside the bare cryptography of one side: one
//! signature made, one checked (CertificateVerify), one key agreement.
//!
//! - `cold`: every chain is seen for the first time: with an intermediate, two signatures more.
//! - `warm`: every chain was verified before, byte for byte, under the same trust.
//!
//! `cargo bench -p countersign-sdk --bench handshake`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::{
    hint::black_box,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_pki::{
    Bundle, BundleSet, CrlPolicy,
    csr::{self, Csr},
    issue::{Issuer, Root, issue_workload, make_issuing, make_root},
    profile::LeafTtl,
};
use countersign_sdk::{
    clock,
    tls::{
        Acceptor, ClientAuth, Connector, Expected, Groups, HTTP_1_1, Identity, TrustState, new_connection_id,
        provider,
    },
};
use rustls::crypto::SupportedKxGroup;

/// Chains that are seen once, and then again.
const CALLERS: usize = 200;
const WARM_ROUNDS: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("P-256 leafs below an intermediate; microseconds of one thread for each handshake");
    println!(
        "group           server cold  warm   client cold  warm   bare  server warm/bare  handshakes/CPU s"
    );
    for group in ["X25519", "X25519MLKEM768", "P-256"] {
        let groups = Groups::parse(&[group]).unwrap();
        let deployment = Deployment::new();
        let server = deployment.trust("server", &groups);
        let acceptor = Acceptor::new(Arc::clone(&server), ClientAuth::Required);
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let expected = Expected::exactly(deployment.id("server"));
                Connector::new(deployment.trust(&format!("c{n}"), &groups), expected).speaking(&[HTTP_1_1])
            })
            .collect();
        let cold = round(&acceptor, &callers).await;
        assert_eq!(server.chains_reused(), 0);
        let mut warm = (Duration::MAX, Duration::MAX);
        for _ in 0..WARM_ROUNDS {
            let (accept, connect) = round(&acceptor, &callers).await;
            // The best round: the others met more of the machine's other work.
            warm = (warm.0.min(accept), warm.1.min(connect));
        }
        assert_eq!(server.chains_reused(), u64::try_from(CALLERS * WARM_ROUNDS).unwrap());
        let bare = bare(group);
        let us = |span: Duration| span.as_secs_f64() * 1e6;
        println!(
            "{group:<15} {:>11.0} {:>5.0} {:>13.0} {:>5.0} {:>6.0} {:>17.2} {:>17.0}",
            us(cold.0),
            us(warm.0),
            us(cold.1),
            us(warm.1),
            us(bare),
            us(warm.0) / us(bare),
            1e6 / us(warm.0),
        );
    }
}

/// One handshake of each caller; the median of each side, which a busy moment of the machine leaves alone.
async fn round(acceptor: &Acceptor, callers: &[Connector]) -> (Duration, Duration) {
    let (mut accepting, mut connecting) = (Vec::new(), Vec::new());
    for caller in callers {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let accept = Timed::new(Box::pin(acceptor.accept(far, new_connection_id(), None)));
        let connect = Timed::new(Box::pin(caller.connect(near)));
        let ((accepted, accept), (connected, connect)) = tokio::join!(accept, connect);
        accepted.unwrap();
        connected.unwrap();
        accepting.push(accept);
        connecting.push(connect);
    }
    (median(accepting), median(connecting))
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans.get(spans.len() / 2).copied().unwrap()
}

/// The time that a future takes while it is polled.
struct Timed<F> {
    future: F,
    took: Duration,
}

impl<F> Timed<F> {
    fn new(future: F) -> Self {
        Self { future, took: Duration::ZERO }
    }
}

impl<F: Future + Unpin> Future for Timed<F> {
    type Output = (F::Output, Duration);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let begun = Instant::now();
        let polled = Pin::new(&mut self.future).poll(cx);
        self.took += begun.elapsed();
        polled.map(|output| (output, self.took))
    }
}

/// One signature, one check, one key agreement of the server: what nobody can leave out.
fn bare(group: &str) -> Duration {
    let exchange = provider().kx_groups.iter().copied().find(|kx| name_of(*kx) == group).unwrap();
    let (key, message) = (key(), [7; 130]);
    let point = key.public_key().spki_der().to_vec();
    let point = point.get(point.len() - 65..).unwrap();
    let rounds = (0..CALLERS * WARM_ROUNDS).map(|_| {
        let share = exchange.start().unwrap().pub_key().to_vec();
        let begun = Instant::now();
        let signature = key.sign_asn1(&message).unwrap();
        let verifies = webpki::aws_lc_rs::ECDSA_P256_SHA256;
        verifies.verify_signature(point, &message, &signature).unwrap();
        black_box(exchange.start_and_complete(&share).unwrap());
        begun.elapsed()
    });
    median(rounds.collect())
}

fn name_of(exchange: &dyn SupportedKxGroup) -> &'static str {
    match exchange.name() {
        rustls::NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        rustls::NamedGroup::X25519 => "X25519",
        _ => "P-256",
    }
}

struct Deployment {
    td: TrustDomain,
    root: Issuer,
    issuing: Issuer,
}

impl Deployment {
    fn new() -> Self {
        let td = TrustDomain::parse("mesh.test").unwrap();
        let now = clock::now().saturating_sub(Duration::from_hours(1));
        let root = make_root(Root::Workload, &td, key(), now, serial()).unwrap();
        let issuing = make_issuing(&root, &td, key(), now, serial()).unwrap();
        Self { td, root, issuing }
    }

    fn id(&self, name: &str) -> SpiffeId {
        SpiffeId::service(&self.td, name).unwrap()
    }

    fn trust(&self, name: &str, groups: &Groups) -> Arc<TrustState> {
        let roots = vec![self.root.certificate().clone()];
        let bundle = Bundle::new(self.td.clone(), roots, Vec::new()).unwrap();
        let trust = TrustState::new(BundleSet::from_iter([bundle]), CrlPolicy::AcceptMissing);
        let key = key();
        let csr = Csr::parse(&csr::make(&key, None).unwrap()).unwrap();
        let now = clock::now();
        let leaf =
            issue_workload(&self.issuing, &csr, &self.id(name), LeafTtl::default(), now, serial()).unwrap();
        let chain = vec![leaf.der, self.issuing.certificate().clone()];
        trust.set_identity(Identity::workload(chain, &key).unwrap());
        trust.set_groups(groups);
        trust
    }
}

fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}

fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = random_bytes(&SystemRandom::new()).unwrap();
    if let Some(first) = serial.first_mut() {
        *first |= 1;
    }
    serial
}
