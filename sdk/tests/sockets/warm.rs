//! What a warm memory of verified chains must not let through: on both sides of real handshakes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::KeyPair;
use countersign_pki::{
    Bundle, BundleSet, CertificateDer, Crl, CrlPolicy, RevocationReason,
    csr::{self, Csr},
    issue::{Issuer, Root, issue_workload, make_issuing, make_root},
    profile::{ISSUING_TTL, LeafTtl},
    revocation::{RevokedEntry, make_crl},
    verify::{ChainError, PeerError, RevocationError},
};
use countersign_sdk::{
    clock,
    tls::{
        Acceptor, ClientAuth, Connector, Expected, HTTP_1_1, HandshakeError, HandshakeRefusal, Identity,
        Peer, TrustState, new_connection_id, provider,
    },
};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    deployment::{HOUR, key, serial},
    handshake::{bare_config, connect},
};

/// A root with an issuing CA, whose key two certificates name: one for long, one for seconds.
struct Authority {
    td: TrustDomain,
    root: Issuer,
    issuing: Issuer,
    ends_soon: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let td = TrustDomain::parse("mesh.test").unwrap();
        let now = clock::now();
        let root =
            make_root(Root::Workload, &td, key(), now.saturating_sub(ISSUING_TTL * 2), serial()).unwrap();
        let ca = key();
        let begun = now.saturating_sub(ISSUING_TTL).saturating_add(LEFT);
        // The first bytes are in the CA's name, which is to be the same.
        let (first, mut second) = (serial(), serial());
        second[..4].copy_from_slice(&first[..4]);
        let ends_soon = make_issuing(&root, &td, ca.clone(), begun, first).unwrap().certificate().clone();
        let issuing = make_issuing(&root, &td, ca, now.saturating_sub(HOUR), second).unwrap();
        Self { td, root, issuing, ends_soon }
    }

    fn id(&self, name: &str) -> SpiffeId {
        SpiffeId::service(&self.td, name).unwrap()
    }

    /// A leaf that lives for an hour, with the long-lived intermediate.
    fn leaf(&self, name: &str) -> Shown {
        let key = key();
        let csr = Csr::parse(&csr::make(&key, None).unwrap()).unwrap();
        let ttl = LeafTtl::new(HOUR).unwrap();
        let leaf = issue_workload(&self.issuing, &csr, &self.id(name), ttl, clock::now(), serial()).unwrap();
        Shown { chain: vec![leaf.der, self.issuing.certificate().clone()], key }
    }

    fn bundles(&self, crls: Vec<Vec<u8>>) -> BundleSet {
        let crls = crls.iter().map(|crl| Crl::read(crl).unwrap()).collect();
        BundleSet::from_iter([
            Bundle::new(self.td.clone(), vec![self.root.certificate().clone()], crls).unwrap()
        ])
    }

    /// A list of the root that takes the issuing CA back.
    fn issuing_is_revoked(&self) -> Vec<u8> {
        let serial = u128::from_str_radix(self.issuing.serial_hex(), 16).unwrap().to_be_bytes().to_vec();
        let (at, not_after) = (clock::now(), self.issuing.not_after());
        let entry = RevokedEntry { serial, at, reason: RevocationReason::CaCompromise, not_after };
        make_crl(&self.root, 1, &[entry], at, at.saturating_add(HOUR)).unwrap()
    }
}

/// A chain, and a key that may be another one's.
#[derive(Clone)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Shown {
    fn identity(&self) -> Identity {
        Identity::workload(self.chain.clone(), &self.key).unwrap()
    }

    fn certified(&self) -> CertifiedKey {
        let pkcs8 = self.key.to_pkcs8().unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().as_slice()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).unwrap();
        CertifiedKey::new(self.chain.clone(), signer)
    }
}

/// A listener that demands certificates, and says how each handshake went.
struct Door {
    trust: Arc<TrustState>,
    address: SocketAddr,
    ended: mpsc::Receiver<Result<Arc<Peer>, HandshakeError>>,
}

impl Door {
    async fn open(authority: &Authority, crls: Vec<Vec<u8>>, policy: CrlPolicy) -> Self {
        let trust = TrustState::new(authority.bundles(crls), policy);
        trust.set_identity(authority.leaf("users").identity());
        let acceptor = Acceptor::new(Arc::clone(&trust), ClientAuth::Required);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (said, ended) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((tcp, from)) = listener.accept().await {
                let shaken = acceptor.accept(tcp, new_connection_id(), Some(from)).await;
                if said.send(shaken.map(|(_, peer)| peer.unwrap())).await.is_err() {
                    return;
                }
            }
        });
        Self { trust, address, ended }
    }

    /// Somebody comes with `shown`, and checks nothing himself.
    async fn comes(&mut self, shown: &Shown) -> Result<Arc<Peer>, HandshakeRefusal> {
        let config = Arc::new(bare_config(Some(shown.certified())));
        let _open = connect(self.address, config).await;
        self.ended.recv().await.unwrap().map_err(|error| match error {
            HandshakeError::Refused(refusal) => refusal,
            other => panic!("{other}"),
        })
    }

    /// Twice, after which the chain is known.
    async fn warm(&mut self, shown: &Shown) {
        self.comes(shown).await.unwrap();
        let before = self.trust.chains_reused();
        self.comes(shown).await.unwrap();
        assert_eq!(self.trust.chains_reused(), before + 1, "the memory is not warm");
    }
}

#[tokio::test]
async fn a_warm_chain_is_refused_once_its_issuing_ca_is_revoked() {
    let authority = Authority::new();
    let ads = authority.leaf("ads");
    let mut door = Door::open(&authority, vec![], CrlPolicy::AcceptMissing).await;
    door.warm(&ads).await;
    let peer = door.comes(&ads).await.unwrap();
    door.trust.set_bundles(authority.bundles(vec![authority.issuing_is_revoked()]));
    let refusal = door.comes(&ads).await.unwrap_err();
    let revoked =
        matches!(refusal, HandshakeRefusal::Peer(PeerError::Revocation(RevocationError::Revoked { .. })));
    assert!(revoked, "{refusal}");
    assert!(peer.workload(clock::now()).is_err(), "an open connection is believed");
}

#[tokio::test]
async fn a_warm_chain_is_refused_once_its_root_is_dropped() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ads = authority.leaf("ads");
    let mut door = Door::open(&authority, vec![], CrlPolicy::AcceptMissing).await;
    door.warm(&ads).await;
    door.trust.set_bundles(other.bundles(vec![]));
    let refusal = door.comes(&ads).await.unwrap_err();
    let unknown = matches!(refusal, HandshakeRefusal::Peer(PeerError::Chain(ChainError::Path(_))));
    assert!(unknown, "{refusal}");
}

#[tokio::test]
async fn a_warm_chain_is_refused_past_the_end_of_its_intermediate_although_its_leaf_lives_on() {
    let authority = Authority::new();
    let mut ads = authority.leaf("ads");
    ads.chain[1] = authority.ends_soon.clone();
    let mut door = Door::open(&authority, vec![], CrlPolicy::AcceptMissing).await;
    door.warm(&ads).await;
    let peer = door.comes(&ads).await.unwrap();
    assert!(ads.identity().not_after() > peer.good_until().unwrap());
    tokio::time::sleep(LEFT + Duration::from_secs(1)).await;
    let refusal = door.comes(&ads).await.unwrap_err();
    assert!(matches!(refusal, HandshakeRefusal::Peer(PeerError::Chain(ChainError::Path(_)))), "{refusal}");
    assert!(peer.workload(clock::now()).is_err(), "an open connection is believed");
}

#[tokio::test]
async fn a_warm_chain_is_refused_without_its_key() {
    let authority = Authority::new();
    let ads = authority.leaf("ads");
    let mut door = Door::open(&authority, vec![], CrlPolicy::AcceptMissing).await;
    door.warm(&ads).await;
    let reused = door.trust.chains_reused();
    let thief = Shown { key: key(), ..ads.clone() };
    assert_eq!(door.comes(&thief).await.unwrap_err(), HandshakeRefusal::NoPossession);
    assert_eq!(door.trust.chains_reused(), reused + 1, "it was not the memory that was asked");
    assert!(door.comes(&ads).await.is_ok());
}

#[tokio::test]
async fn a_chain_that_comes_without_its_key_is_not_remembered() {
    let authority = Authority::new();
    let ads = authority.leaf("ads");
    let thief = Shown { key: key(), ..ads.clone() };
    let mut door = Door::open(&authority, vec![], CrlPolicy::AcceptMissing).await;
    for shown in [&thief, &thief, &ads] {
        let _ = door.comes(shown).await;
        assert_eq!(door.trust.chains_reused(), 0, "somebody without the key had it remembered");
    }
    door.comes(&ads).await.unwrap();
    assert_eq!(door.trust.chains_reused(), 1, "whoever holds it has");

    let caller = Calling::new(&authority, "ads");
    let (stolen, own) = (serving(&thief).await, serving(&ads).await);
    for address in [stolen, stolen, own] {
        let _ = caller.call(address).await;
        assert_eq!(caller.trust.chains_reused(), 0, "a server without the key had it remembered");
    }
    caller.call(own).await.unwrap();
    assert_eq!(caller.trust.chains_reused(), 1);
}

#[tokio::test]
async fn a_warm_chain_is_refused_once_the_list_that_speaks_for_it_has_ended() {
    let authority = Authority::new();
    let ads = authority.leaf("ads");
    let now = clock::now();
    let list = make_crl(&authority.issuing, 1, &[], now, now.saturating_add(LEFT)).unwrap();
    let mut door = Door::open(&authority, vec![list], CrlPolicy::Require).await;
    door.warm(&ads).await;
    tokio::time::sleep(LEFT + Duration::from_secs(1)).await;
    let refusal = door.comes(&ads).await.unwrap_err();
    assert!(
        matches!(refusal, HandshakeRefusal::Peer(PeerError::Revocation(RevocationError::Crl(_)))),
        "{refusal}"
    );
}

#[tokio::test]
async fn another_identity_of_ours_forgets_no_chain_and_other_bundles_forget_all() {
    let authority = Authority::new();
    let ads = authority.leaf("ads");
    let mut door = Door::open(&authority, vec![], CrlPolicy::AcceptMissing).await;
    door.warm(&ads).await;
    let reused = door.trust.chains_reused();
    door.trust.set_identity(authority.leaf("users").identity());
    door.comes(&ads).await.unwrap();
    assert_eq!(door.trust.chains_reused(), reused + 1);
    door.trust.set_bundles(authority.bundles(vec![]));
    door.comes(&ads).await.unwrap();
    assert_eq!(door.trust.chains_reused(), reused + 1);
}

/// A server that shows this, whether the key is its own or not, to whoever comes.
async fn serving(shown: &Shown) -> SocketAddr {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown.certified())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    address
}

/// A caller with one connector for all of its connections.
struct Calling {
    trust: Arc<TrustState>,
    connector: Connector,
}

impl Calling {
    fn new(authority: &Authority, expected: &str) -> Self {
        let trust = TrustState::new(authority.bundles(vec![]), CrlPolicy::AcceptMissing);
        trust.set_identity(authority.leaf("ads").identity());
        let expected = Expected::exactly(authority.id(expected));
        let connector = Connector::new(Arc::clone(&trust), expected).speaking(&[HTTP_1_1]);
        Self { trust, connector }
    }

    async fn call(&self, address: SocketAddr) -> Result<Arc<Peer>, HandshakeRefusal> {
        let tcp = TcpStream::connect(address).await.unwrap();
        let shaken = self.connector.connect(tcp).await;
        shaken.map(|(_, peer)| peer).map_err(|error| match error {
            HandshakeError::Refused(refusal) => refusal,
            other => panic!("{other}"),
        })
    }

    async fn warm(&self, address: SocketAddr) {
        self.call(address).await.unwrap();
        let before = self.trust.chains_reused();
        self.call(address).await.unwrap();
        assert_eq!(self.trust.chains_reused(), before + 1, "the memory is not warm");
    }
}

#[tokio::test]
async fn a_caller_refuses_a_warm_server_that_was_revoked_lost_its_root_or_does_not_hold_its_key() {
    let (authority, other) = (Authority::new(), Authority::new());
    let users = authority.leaf("users");
    let address = serving(&users).await;
    let caller = Calling::new(&authority, "users");
    caller.warm(address).await;

    let thief = serving(&Shown { key: key(), ..users.clone() }).await;
    assert_eq!(caller.call(thief).await.unwrap_err(), HandshakeRefusal::NoPossession);

    caller.trust.set_bundles(authority.bundles(vec![authority.issuing_is_revoked()]));
    let refusal = caller.call(address).await.unwrap_err();
    assert!(matches!(refusal, HandshakeRefusal::Peer(PeerError::Revocation(_))), "{refusal}");

    caller.trust.set_bundles(authority.bundles(vec![]));
    caller.warm(address).await;
    caller.trust.set_bundles(other.bundles(vec![]));
    let refusal = caller.call(address).await.unwrap_err();
    assert!(matches!(refusal, HandshakeRefusal::Peer(PeerError::Chain(_))), "{refusal}");
}

#[tokio::test]
async fn a_warm_server_is_refused_by_whoever_expects_another_one() {
    let authority = Authority::new();
    let address = serving(&authority.leaf("users")).await;
    let caller = Calling::new(&authority, "users");
    caller.warm(address).await;
    let expects_chat = Expected::exactly(authority.id("chat"));
    let connector = Connector::new(Arc::clone(&caller.trust), expects_chat).speaking(&[HTTP_1_1]);
    let caller = Calling { connector, ..caller };
    let refusal = caller.call(address).await.unwrap_err();
    assert!(matches!(refusal, HandshakeRefusal::Peer(PeerError::Identity(_))), "{refusal}");
}

/// How long the certificate or list lives that ends soon.
const LEFT: Duration = Duration::from_secs(4);
