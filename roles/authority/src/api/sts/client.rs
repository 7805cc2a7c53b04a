//! Who asks the token service: a workload, by its certificate (RFC 8705 section 2.1) or by an assertion that it signed
//! (RFC 7523 section 2.2), and nobody by a secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{
    Binding, Bound, Caller, Freshness, Mode, Possession, Proof, SpiffeId, User, UserProof, Verified,
    Workload, WorkloadProof,
};
use countersign_sdk::signing_chains::read_chain;
use countersign_token::{
    ClientAssertion, Sighting,
    confirmation::Confirmation,
    signer::{Signer, SignerHint},
};
use countersign_wire::codes::Code;

use super::{Asked, Form, OAuthError};

/// RFC 7523 section 2.2.
pub(crate) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A client that proved who it is.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    workload: Verified<Workload>,
    proof: Proof,
    mode: Mode,
    /// What a token for it is bound to. Nothing where it shows its callees no key: there the token counts by name, in the
    /// hands of the one to whom it was issued.
    pub(crate) confirmation: Option<Confirmation>,
    /// How the token is to be used, `token_type` of the answer.
    pub(crate) token_type: &'static str,
    /// Does it prove its key by DPoP? Then it needs nonces.
    pub(crate) shows_proof: bool,
}

impl Client {
    /// Its name, which is its client id.
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.workload.id
    }

    /// The client on behalf of `user`, as policies read it.
    pub(crate) fn on_behalf_of(&self, user: Option<Verified<User>>, user_proof: UserProof) -> Caller {
        let possession = user.as_ref().map_or(Possession::None, |user| user.possession);
        let freshness = match user {
            Some(_) => self.proof.freshness.min(Freshness::Reusable),
            None => self.proof.freshness,
        };
        let proof = Proof { user: user_proof, user_possession: possession, freshness, ..self.proof };
        let chain = user.as_ref().map_or_else(Vec::new, |user| user.actors.clone());
        Caller::new(Some(self.workload.clone()), user, chain, proof).proven_in(self.mode)
    }
}

/// Authenticates the client of a request, and says to what its tokens are bound.
pub(crate) fn authenticate(asked: &Asked<'_>, form: &Form) -> Result<Client, OAuthError> {
    if asked.headers.contains_key(http::header::AUTHORIZATION) {
        return Err(unknown("an Authorization header: clients have no secrets here"));
    }
    let assertion = match (form.optional("client_assertion_type"), form.optional("client_assertion")) {
        (None, None) => None,
        (Some(ASSERTION_TYPE), Some(assertion)) => Some(assertion),
        _ => return Err(OAuthError::form("client_assertion and client_assertion_type do not go together")),
    };
    let client = match (asked.caller.workload(), assertion) {
        (Some(_), Some(_)) => {
            return Err(OAuthError::form("a certificate and a client_assertion: use one of them"));
        }
        (Some(workload), None) => by_certificate(asked, workload)?,
        (None, Some(assertion)) => by_assertion(asked, assertion)?,
        (None, None) => return Err(unknown("neither a certificate nor a client_assertion")),
    };
    match form.optional("client_id") {
        Some(claimed) if claimed != client.id().as_str() => {
            Err(unknown("the client_id is not the SPIFFE ID that the client proved"))
        }
        _ => Ok(client),
    }
}

fn by_certificate(asked: &Asked<'_>, workload: &Verified<Workload>) -> Result<Client, OAuthError> {
    let facts = workload.certificate.as_ref();
    let thumbprint = facts.and_then(|facts| bytes_of_hex(&facts.thumbprint_sha256_hex));
    let thumbprint = thumbprint.ok_or_else(|| unknown("the connection shows no certificate"))?;
    let sends = asked.live.service_of(&workload.id).map(|entry| entry.sends);
    let shows_no_key = matches!(sends, Some(Mode::None | Mode::Bearer | Mode::Macaroon));
    let certificate = || Confirmation::Certificate(URL_SAFE_NO_PAD.encode(thumbprint));
    Ok(Client {
        workload: workload.clone(),
        proof: *asked.caller.proof(),
        mode: Mode::Mtls,
        confirmation: (!shows_no_key).then(certificate),
        token_type: BEARER,
        shows_proof: false,
    })
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())
}

fn by_assertion(asked: &Asked<'_>, assertion: &str) -> Result<Client, OAuthError> {
    let refused = |reason: String| OAuthError::new(Code::ClientAssertionRefused, reason);
    let mut found = Err("no registered key and no chain beside the assertion".to_owned());
    let verified = ClientAssertion::verify(assertion, &asked.authority.issuer, asked.now, |hint| {
        found = signer(asked, &hint);
        found.clone().ok()
    });
    let verified = verified.map_err(|error| match &found {
        Err(why) => refused(format!("{error}: {why}")),
        Ok(_) => refused(error.to_string()),
    })?;
    let signer = found.map_err(refused)?;
    let facts = verified.facts(&signer.key.thumbprint());
    asked.live.tokens().revoked.judge(&facts).map_err(|error| refused(error.to_string()))?;
    let sighting = Sighting {
        issuer: verified.client.as_str(),
        jti: &verified.jti,
        issued_at: verified.issued_at,
        expires: verified.expires,
        channel_bound: false,
    };
    asked.sts.replay.admit(&sighting, asked.now).map_err(|error| refused(error.to_string()))?;
    Ok(Client {
        workload: Verified::vouch(Workload { id: signer.owner, certificate: None }),
        proof: Proof {
            workload: WorkloadProof::SignedRequest,
            binding: Binding::of(&[Bound::Target]),
            freshness: Freshness::SingleUse,
            ..Proof::NONE
        },
        mode: Mode::Jwt,
        confirmation: Some(Confirmation::Key(signer.key.thumbprint().to_string())),
        // It proves nothing by itself, whoever shows it: only beside a request that its key signed.
        token_type: NOT_ALONE,
        shows_proof: false,
    })
}

/// Whose key it is: that of a registered key, or the name in the certificate whose chain came along.
fn signer(asked: &Asked<'_>, hint: &SignerHint<'_>) -> Result<Signer, String> {
    if let Some(registered) = asked.live.tokens().registered.get(hint.kid) {
        return Ok(Signer { key: registered.key.clone(), owner: registered.owner.clone() });
    }
    let header = asked.headers.get(countersign_request::SIGNING_CHAIN).and_then(|value| value.to_str().ok());
    let header = header.ok_or("no registered key has its kid, and no signing chain came along")?;
    let chain = read_chain(header).map_err(|error| error.to_string())?;
    let signer = asked.sts.chains.verify(&chain, asked.now).map_err(|refusal| refusal.error.to_string())?;
    // A chain of another key gives a key that did not sign.
    Ok(Signer { key: signer.key().clone(), owner: signer.id().clone() })
}

/// Binds the token to the key of a DPoP proof instead, if the request carries one (RFC 9449 section 5).
pub(crate) fn bind_to_proof(asked: &Asked<'_>, client: Client) -> Result<Client, OAuthError> {
    let proof = asked.sts.proven_key(asked.uri, asked.headers, asked.version, asked.now)?;
    let Some(proof) = proof else { return Ok(client) };
    let confirmation = Some(Confirmation::Key(proof.jkt().to_owned()));
    Ok(Client { confirmation, token_type: DPOP_TYPE, shows_proof: true, ..client })
}

fn unknown(reason: &str) -> OAuthError {
    OAuthError::new(Code::ClientUnknown, reason)
}

/// RFC 6750, and RFC 8705: the binding is in the token.
const BEARER: &str = "Bearer";
/// RFC 9449 section 5.
const DPOP_TYPE: &str = "DPoP";
/// RFC 8693 section 2.2.1.
pub(crate) const NOT_ALONE: &str = "N_A";
