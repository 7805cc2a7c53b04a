//! Other trust domains: their bundles read, ours written.
//!
//! A bundle says by what the members of a trust domain are recognised, and it speaks of that trust domain alone:
//! roots go into its own [`Bundle`], token keys into its own table. Nothing of it is ever pooled with ours.

use std::time::Duration;

use countersign_identity::TrustDomain;
use countersign_keys::{KeyPair, PublicKey, sha256_hex};
use countersign_pki::{Bundle, BundleError, CertificateDer, Crl, CrlError};
use countersign_store::{StoreError, certificates::StoredCrl, federation::PeerBundle};
use countersign_wire::{
    Base64,
    api::federation::{
        BUNDLE_KEYS_MAX, BundleDocument, BundleKey, Federated, USE_EXCHANGE, USE_JWT_SVID, USE_WIT_SVID,
        USE_X509_SVID,
    },
    json,
    snapshot::{Jwk, TokenAuthority, TrustBundle},
};

use crate::{keys::Keys, state::Authority};

/// How often others should fetch our bundle again.
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// Bytes of a bundle document, revocation lists included: every data plane holds the bundles of all peers.
pub(crate) const BUNDLE_BYTES_MAX: usize = 512 * 1024;

/// Bytes of all of them together: a third of what a snapshot may have.
pub(crate) const FEDERATION_BYTES_MAX: usize = 1024 * 1024;

/// What a bundle amounts to.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) trust_domain: TrustDomain,
    /// `None` where the bundle has no roots: then no certificate of the trust domain is believed.
    pub(crate) bundle: Option<Bundle>,
    pub(crate) tokens: TokenAuthority,
}

/// Why a bundle is not taken. The one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// A bundle of our own trust domain: we alone say by what our members are recognised.
    #[error("trust domain {trust_domain} is our own: hand in the bundle of another one")]
    Own {
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// Over [`BUNDLE_KEYS_MAX`].
    #[error("the bundle has {keys} keys: at most {BUNDLE_KEYS_MAX} are read")]
    TooManyKeys {
        /// How many.
        keys: usize,
    },
    /// A root without exactly one certificate (X509-SVID section 6).
    #[error("key {position} of the bundle is a root and needs exactly one certificate in x5c")]
    Root {
        /// Which key, from 0.
        position: usize,
    },
    /// A key that signs tokens and cannot be read.
    #[error("key {position} of the bundle signs tokens and cannot be used: {why}")]
    Key {
        /// Which key, from 0.
        position: usize,
        /// Why.
        why: String,
    },
    /// The token keys have no issuer, so nobody could say whose tokens they are.
    #[error("the bundle has keys of a token service and no countersign_issuer")]
    NoIssuer,
    /// The roots or the lists do not make a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A revocation list.
    #[error("revocation list {position} of the bundle cannot be read: {why}")]
    Crl {
        /// Which one, from 0.
        position: usize,
        /// Why.
        why: CrlError,
    },
}

impl Peer {
    /// Reads the bundle that `trust_domain` is said to have. Keys of unknown type or use are passed over (SPIFFE Trust
    /// Domain and Bundle, sections 4.1.3 and 4.2).
    pub(crate) fn read(
        home: &TrustDomain,
        trust_domain: &TrustDomain,
        document: &BundleDocument,
    ) -> Result<Self, PeerError> {
        if trust_domain == home {
            return Err(PeerError::Own { trust_domain: home.clone() });
        }
        if document.keys.len() > BUNDLE_KEYS_MAX {
            return Err(PeerError::TooManyKeys { keys: document.keys.len() });
        }
        let keys = |usage| token_keys(document, usage);
        let tokens = TokenAuthority {
            trust_domain: trust_domain.clone(),
            issuer: document.issuer.clone().unwrap_or_default(),
            jwt_svid: keys(USE_JWT_SVID)?,
            wit: keys(USE_WIT_SVID)?,
            exchange: keys(USE_EXCHANGE)?,
        };
        if tokens.issuer.is_empty() && !tokens.exchange.is_empty() {
            return Err(PeerError::NoIssuer);
        }
        Ok(Self { trust_domain: trust_domain.clone(), bundle: bundle(trust_domain, document)?, tokens })
    }

    /// The same for the data planes.
    pub(crate) fn trust_bundle(&self) -> Option<TrustBundle> {
        let bundle = self.bundle.as_ref()?;
        Some(TrustBundle {
            trust_domain: self.trust_domain.clone(),
            roots: bundle.roots().iter().map(|root| Base64(root.to_vec())).collect(),
            crls: bundle.crls().iter().map(|crl| Base64(crl.der().to_vec())).collect(),
        })
    }

    /// For people.
    pub(crate) fn describe(&self, stored: &PeerBundle) -> Federated {
        let (roots, crls) = self.bundle.as_ref().map_or((&[][..], &[][..]), |b| (b.roots(), b.crls()));
        let tokens = [&self.tokens.jwt_svid, &self.tokens.wit, &self.tokens.exchange];
        let thumbprint =
            |jwk: &Jwk| PublicKey::from_jwk(jwk.as_str()).ok().map(|key| key.thumbprint().to_string());
        Federated {
            trust_domain: self.trust_domain.clone(),
            sequence: stored.sequence,
            issuer: self.tokens.issuer.clone(),
            roots: roots.iter().map(|root| sha256_hex(root)).collect(),
            keys: tokens.into_iter().flatten().filter_map(thumbprint).collect(),
            crls_until: crls.iter().map(|crl| crl.next_update()).min(),
            stored_at: stored.stored_at,
            stored_by: stored.stored_by.clone(),
        }
    }
}

/// Every trust domain that we federate with.
pub(crate) async fn peers(authority: &Authority) -> Result<Vec<Peer>, StoreError> {
    Ok(stored_peers(authority).await?.into_iter().map(|(_, peer)| peer).collect())
}

/// The same with who handed it in and when. What was stored was judged before, so it reads again.
pub(crate) async fn stored_peers(authority: &Authority) -> Result<Vec<(PeerBundle, Peer)>, StoreError> {
    let corrupt = StoreError::Corrupt { table: "federation", column: "document" };
    let read = |stored: PeerBundle| {
        let document: BundleDocument =
            json::from_slice(stored.document.as_bytes(), BUNDLE_BYTES_MAX).map_err(|_| corrupt.clone())?;
        let peer =
            Peer::read(&authority.trust_domain, &stored.peer, &document).map_err(|_| corrupt.clone())?;
        Ok((stored, peer))
    };
    authority.db.federation().await?.into_iter().map(read).collect()
}

/// Our own bundle, as others hand it in. Its number is that of the newest snapshot: nothing in it changes without one.
pub(crate) fn own(authority: &Authority, keys: &Keys, crls: Vec<StoredCrl>, sequence: u64) -> BundleDocument {
    let root = keys.workload_root.certificate().to_vec();
    let root_key =
        BundleKey { x5c: vec![Base64(root)], ..public(keys.workload_root.key(), USE_X509_SVID, false) };
    let kinds = [(USE_JWT_SVID, &keys.jwt_svid), (USE_WIT_SVID, &keys.wit), (USE_EXCHANGE, &keys.exchange)];
    let tokens =
        kinds.into_iter().flat_map(|(usage, keys)| keys.all().map(move |key| public(key, usage, true)));
    BundleDocument {
        spiffe_sequence: Some(sequence),
        spiffe_refresh_hint: Some(REFRESH_HINT.as_secs()),
        keys: std::iter::once(root_key).chain(tokens).collect(),
        issuer: Some(authority.issuer.clone()),
        crls: crls.into_iter().map(|crl| Base64(crl.der)).collect(),
    }
}

/// A key as it stands in a bundle. Roots have no `kid` (X509-SVID section 6.2).
fn public(key: &KeyPair, usage: &str, named: bool) -> BundleKey {
    let jwk: BundleKey = serde_json::from_str(&key.public_key().to_jwk()).unwrap_or_default();
    let kid = jwk.kid.clone().filter(|_| named);
    let alg = jwk.alg.clone().filter(|_| named);
    BundleKey { usage: Some(usage.to_owned()), kid, alg, ..jwk }
}

fn bundle(trust_domain: &TrustDomain, document: &BundleDocument) -> Result<Option<Bundle>, PeerError> {
    let mut roots = Vec::new();
    for (position, key) in of_use(document, USE_X509_SVID) {
        let [root] = key.x5c.as_slice() else { return Err(PeerError::Root { position }) };
        roots.push(CertificateDer::from(root.0.clone()));
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let mut crls = Vec::new();
    for (position, crl) in document.crls.iter().enumerate() {
        crls.push(Crl::read(&crl.0).map_err(|why| PeerError::Crl { position, why })?);
    }
    Ok(Some(Bundle::new(trust_domain.clone(), roots, crls)?))
}

fn token_keys(document: &BundleDocument, usage: &str) -> Result<Vec<Jwk>, PeerError> {
    let read = |(position, key): (usize, &BundleKey)| {
        let refused = |why: String| PeerError::Key { position, why };
        let Some(kid) = key.kid.as_deref().filter(|kid| !kid.is_empty()) else {
            return Err(refused("it has no kid (JWT-SVID section 5.2)".to_owned()));
        };
        let public = PublicKey::from_jwk(&key.to_jwk()).map_err(|error| refused(error.to_string()))?;
        // Tokens name the key as their trust domain does, which need not be by its thumbprint.
        let named = if public.is_named(kid) { public.to_jwk() } else { key.to_named_jwk(kid) };
        Jwk::from_text(&named).map_err(|error| refused(error.to_string()))
    };
    of_use(document, usage).map(read).collect()
}

/// Keys of one use, each with its position; those of unknown type are passed over.
fn of_use<'a>(document: &'a BundleDocument, usage: &'a str) -> impl Iterator<Item = (usize, &'a BundleKey)> {
    let known = |key: &&BundleKey| key.kty.as_deref().is_some_and(|kty| KEY_TYPES.contains(&kty));
    let keys = document.keys.iter().enumerate();
    keys.filter(move |(_, key)| key.usage.as_deref() == Some(usage) && known(key))
}

/// Key types that exist for us.
const KEY_TYPES: [&str; 3] = ["EC", "OKP", "RSA"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use countersign_testkit::vectors;
    use serde_json::{Value, json};

    use super::*;
    use crate::serve::testing;

    fn td(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn read(document: &Value) -> Result<Peer, PeerError> {
        let document: BundleDocument = serde_json::from_value(document.clone()).unwrap();
        Peer::read(&td("home.test"), &td("b.test"), &document)
    }

    /// A bundle as an authority serves it.
    async fn served() -> Value {
        let (_dir, authority) = testing::authority().await;
        let crls = authority.db.crls().await.unwrap();
        serde_json::to_value(own(&authority, &authority.keys.load(), crls, 7)).unwrap()
    }

    fn position(document: &Value, usage: &str) -> usize {
        document["keys"].as_array().unwrap().iter().position(|key| key["use"] == usage).unwrap()
    }

    #[tokio::test]
    async fn a_bundle_that_we_serve_is_one_that_we_read() {
        let document = served().await;
        let peer = read(&document).unwrap();
        assert_eq!(document["spiffe_sequence"], 7);
        assert!(peer.tokens.issuer.starts_with("https://") && !peer.tokens.exchange.is_empty());
        let bundle = peer.trust_bundle().unwrap();
        assert_eq!((bundle.roots.len(), bundle.crls.len()), (1, 1));
        let root = &document["keys"][position(&document, USE_X509_SVID)];
        assert!(root.get("kid").is_none(), "X509-SVID section 6.2");
    }

    #[tokio::test]
    async fn keys_of_unknown_type_or_use_are_passed_over_and_no_keys_are_nobody() {
        let mut document = served().await;
        let keys = document["keys"].as_array_mut().unwrap();
        keys.push(json!({ "kty": "oct", "use": "jwt-svid", "k": "AAAA" }));
        keys.push(json!({ "kty": "EC", "use": "ssh", "x": 1.to_string() }));
        keys.push(json!({ "kty": "EC" }));
        keys.push(json!({}));
        assert!(read(&document).is_ok());
        let nobody = read(&json!({ "keys": [] })).unwrap();
        assert!(nobody.bundle.is_none() && nobody.trust_bundle().is_none());
        assert!(nobody.tokens.exchange.is_empty());
    }

    #[tokio::test]
    async fn rejects_our_own_name_too_many_keys_and_tokens_of_nobody() {
        let document = served().await;
        let ours: BundleDocument = serde_json::from_value(document.clone()).unwrap();
        let own = Peer::read(&td("b.test"), &td("b.test"), &ours).unwrap_err();
        assert_eq!(own, PeerError::Own { trust_domain: td("b.test") });
        let keys = vec![json!({}); BUNDLE_KEYS_MAX + 1];
        let many = read(&json!({ "keys": keys })).unwrap_err();
        assert_eq!(many, PeerError::TooManyKeys { keys: BUNDLE_KEYS_MAX + 1 });
        let mut anonymous = document;
        anonymous.as_object_mut().unwrap().remove("countersign_issuer");
        assert_eq!(read(&anonymous).unwrap_err(), PeerError::NoIssuer);
    }

    #[tokio::test]
    async fn rejects_roots_keys_and_lists_that_cannot_be_used() {
        let document = served().await;
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut document = document.clone();
            change(&mut document);
            read(&document).unwrap_err()
        };
        let (root, exchange) = (position(&document, USE_X509_SVID), position(&document, USE_EXCHANGE));
        let certificate = document["keys"][root]["x5c"][0].clone();
        let two = json!([certificate.clone(), certificate]);
        let several = changed(&|d| d["keys"][root]["x5c"] = two.clone());
        assert_eq!(several, PeerError::Root { position: root });
        let broken = changed(&|d| d["keys"][root]["x5c"] = json!(["AAAA"]));
        assert!(matches!(broken, PeerError::Bundle(BundleError::NotARoot { .. })), "{broken}");
        let off = changed(&|d| d["keys"][exchange]["x"] = json!("AAAA"));
        assert!(matches!(off, PeerError::Key { position, .. } if position == exchange), "{off}");
        let unnamed = changed(&|d| {
            d["keys"][exchange].as_object_mut().unwrap().remove("kid");
        });
        assert!(matches!(unnamed, PeerError::Key { position, .. } if position == exchange), "{unnamed}");
        let list = changed(&|d| d["countersign_crls"] = json!(["AAAA"]));
        assert!(matches!(list, PeerError::Crl { position: 0, .. }), "{list}");
    }

    #[test]
    fn reads_the_bundles_that_other_implementations_test_with() {
        let Some(folder) = vectors("spiffe/go-spiffe-testdata/bundle/spiffebundle/testdata") else { return };
        let document = |name: &str| {
            let text = std::fs::read(folder.join(format!("spiffebundle_{name}.json"))).unwrap();
            serde_json::from_slice::<BundleDocument>(&text)
        };
        let read = |name: &str| Peer::read(&td("home.test"), &td("b.test"), &document(name).unwrap());
        for (name, tokens) in [("valid_1", 1), ("valid_2", 6)] {
            let peer = read(name).unwrap();
            assert_eq!(
                (peer.bundle.unwrap().roots().len(), peer.tokens.jwt_svid.len()),
                (1, tokens),
                "{name}"
            );
        }
        assert!(!read("valid_with_wit").unwrap().tokens.wit.is_empty());
        assert!(matches!(read("missing_kid"), Err(PeerError::Key { position: 1, .. })));
        assert!(matches!(read("multiple_x509"), Err(PeerError::Root { position: 0 })));
        assert!(document("no_keys").is_err(), "section 4.1.3: keys must be present");
    }
}
