//! Modes `jwt` and `mtls+jwt`: a token that the caller signed for this one request.

use std::sync::Arc;

use countersign_identity::{Bound, Freshness, Mode, SpiffeId, Verified, WorkloadProof};
use countersign_keys::sha256;
use countersign_pki::signer::Signer as CertifiedKey;
use countersign_token::{
    ServiceToken, Sighting, Signer, SignerHint,
    service_token::{BodyBinding, SeenRequest, UserBinding},
};

use super::{
    Authenticator, EvidenceError, Rules,
    body::BodyClaim,
    presented::Presented,
    workload::{Proven, Users},
};
use crate::{
    accept::Exporter,
    signing_chains::{read_chain, read_leaf},
    tls::Peer,
};

/// A service token, and what came with it that helps to believe it.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) token: &'a str,
    /// Path material for the certificate of the signing key. Nobody believes it for being there.
    pub(super) chain: Option<&'a str>,
    /// The certificate of the connection.
    pub(super) peer: Option<&'a Peer>,
}

impl Authenticator {
    pub(super) fn service_token(
        &self,
        signed: Signed<'_>,
        presented: &Presented<'_>,
        rules: &Rules<'_>,
    ) -> Result<Proven, EvidenceError> {
        let peer =
            signed.peer.map(|peer| peer.workload(rules.now).map(|workload| (peer, workload))).transpose()?;
        let path_and_query = presented.request.path_and_query();
        let seen = SeenRequest {
            callee: &self.me,
            method: presented.request.method().as_str(),
            path_and_query: &path_and_query,
            channel: presented.exporter.map(Exporter::expose),
            txn_token: presented.txn_token,
            user_token: presented.user_token,
            required: rules.required,
        };
        let mut found = None;
        let verified = ServiceToken::verify(signed.token, &seen, rules.now, |hint| {
            let signer = self.signer(&hint, signed.chain, rules);
            found.insert(signer).as_ref().ok().map(|found| found.signer.clone())
        });
        let (token, found) = match (verified, found) {
            // Why there is no key says more than that there is none.
            (_, Some(Err(error))) => return Err(error),
            (Err(error), _) => return Err(error.into()),
            (Ok(_), None) => return Err(EvidenceError::SignerUnknown),
            (Ok(token), Some(Ok(found))) => (token, found),
        };
        if let Some((_, workload)) = &peer
            && workload.id != token.issuer
        {
            return Err(EvidenceError::OtherPeer { issuer: token.issuer.clone(), peer: workload.id.clone() });
        }
        if let Some(signer) = &found.unkept {
            self.chains.keep(signer, rules.now);
        }
        rules.keys.revoked.judge(&token.facts(&found.signer.key.thumbprint()))?;
        self.admit(&sighting(&token), rules)?;
        let proven = proven(token, found);
        Ok(match peer {
            Some((peer, workload)) => proven.beside(peer, workload),
            None => proven,
        })
    }

    /// The key that the token names, and whose it is.
    fn signer(
        &self,
        hint: &SignerHint<'_>,
        chain: Option<&str>,
        rules: &Rules<'_>,
    ) -> Result<Found, EvidenceError> {
        let Some(thumbprint) = hint.certificate_sha256 else {
            let registered = rules.keys.registered.get(hint.kid).ok_or(EvidenceError::SignerUnknown)?;
            let signer = Signer { key: registered.key.clone(), owner: registered.owner.clone() };
            return Ok(Found { signer, thumbprint: None, unkept: None });
        };
        // A chain that comes along speaks, known or not: whoever shows that of somebody else is not the signer.
        let shows_another = match chain {
            Some(chain) => sha256(&read_leaf(chain)?) != *thumbprint,
            None => false,
        };
        if let Some(known) =
            self.chains.known(hint.issuer.as_str(), thumbprint, rules.now).map_err(EvidenceError::Signer)?
            && !shows_another
        {
            return Ok(Found::certified(&known));
        }
        let chain = read_chain(chain.ok_or(EvidenceError::SignerUnknown)?)?;
        let signer =
            self.chains.verify(&chain, rules.now).map_err(|refusal| EvidenceError::Signer(refusal.error))?;
        if signer.id() != hint.issuer {
            return Err(EvidenceError::SignerMismatch {
                issuer: hint.issuer.clone(),
                certified: signer.id().clone(),
            });
        }
        // The right name on another certificate than the one that was signed for.
        if shows_another {
            return Err(EvidenceError::SignerUnknown);
        }
        Ok(Found { unkept: Some(Arc::clone(&signer)), ..Found::certified(&signer) })
    }
}

/// A key whose owner is known, and the thumbprint of the certificate that says so.
struct Found {
    signer: Signer,
    thumbprint: Option<[u8; 32]>,
    /// Whose chain came along and is to be remembered, once the token is known to be signed by its key.
    unkept: Option<Arc<CertifiedKey>>,
}

impl Found {
    fn certified(signer: &Arc<CertifiedKey>) -> Self {
        let (key, owner): (_, SpiffeId) = (signer.key().clone(), signer.id().clone());
        Self { signer: Signer { key, owner }, thumbprint: Some(*signer.thumbprint()), unkept: None }
    }
}

fn sighting(token: &ServiceToken) -> Sighting<'_> {
    Sighting {
        issuer: token.issuer.as_str(),
        jti: &token.jti,
        issued_at: token.issued_at,
        expires: token.expires,
        channel_bound: token.channel.is_some(),
    }
}

fn proven(token: Verified<ServiceToken>, found: Found) -> Proven {
    let binds_body = matches!(token.body, BodyBinding::Sha256(_));
    let users = Users {
        covers_txn_token: matches!(token.user, UserBinding::TxnToken(_)),
        covers_user_token: matches!(token.user, UserBinding::UserToken(_)),
        nested: match &token.user {
            UserBinding::Nested(token) => Some(token.clone()),
            _ => None,
        },
    };
    let binding = token.binding();
    Proven {
        // Of the body too: there is no caller before the body was compared.
        binding: if binds_body { binding.and(Bound::Body) } else { binding },
        freshness: Freshness::SingleUse,
        certificates: found.thumbprint.into_iter().collect(),
        keys: vec![found.signer.key.thumbprint()],
        users,
        body: if binds_body { BodyClaim::ServiceToken(Box::new(token.clone())) } else { BodyClaim::Nothing },
        ..Proven::named(token.issuer.clone(), Mode::Jwt, WorkloadProof::SignedRequest)
    }
}
