//! Workload identity tokens: they name a key, and count only beside a proof of it.

use countersign_keys::PublicKey;
use countersign_request::WORKLOAD_PROOF_TOKEN;
use countersign_sdk::{authenticate::EvidenceError, clock, inbound::Denial};
use countersign_token::{
    JwsError,
    wit::{ConfirmationKey, Unproven, Wit, WitIssuer},
    wpt::{self, ProofTarget, WptError, target_uri},
};

use super::{
    Weak, Weakness,
    door::Asked,
    holder::{LIFE, ME},
};
use crate::attack::AttackError;

impl Weak {
    /// A workload identity token of `owner`, which names this key.
    ///
    /// # Errors
    /// It could not be made.
    pub fn workload_identity(&self, owner: &str, key: &PublicKey) -> Result<String, AttackError> {
        let now = clock::now();
        let wit = Wit {
            subject: self.name(owner)?,
            confirmation: ConfirmationKey::new(key.clone()),
            token_id: Some(format!("wit-at-{}", now.millis())),
            issuer: None,
            expires: now.saturating_add(LIFE),
        };
        wit.mint(&self.holders.wits, now)
            .map_err(|error| AttackError::equipment("a workload identity token", error))
    }

    /// The name in a token whose key was proven to be held.
    pub(super) fn proven(&self, token: &str, asked: &Asked<'_>) -> Result<String, Denial> {
        let now = clock::now();
        let wit: Unproven =
            Wit::verify(token, now, |kid| self.wit_issuer(kid)).map_err(EvidenceError::from)?;
        let proof = asked.headers.get(WORKLOAD_PROOF_TOKEN).and_then(|value| value.to_str().ok());
        let Some(proof) = proof else {
            return match self.makes(Weakness::WitIsEnough) {
                true => Ok(wit.claimed_subject().to_string()),
                false => Err(EvidenceError::Combination("a token came without a proof").into()),
            };
        };
        let path = asked.target.split('?').next().unwrap_or_default();
        let audience = target_uri(ME, path);
        let exporter = asked.exporter.as_ref();
        let target = ProofTarget { audience: &audience, exporter, ..ProofTarget::default() };
        match wpt::verify(proof, &wit, &target, now) {
            Ok(proven) => Ok(proven.subject.to_string()),
            Err(error) if self.passes_over(&error) => Ok(wit.claimed_subject().to_string()),
            Err(error) => Err(EvidenceError::from(error).into()),
        }
    }

    /// The check that failed is one that is not made.
    fn passes_over(&self, error: &WptError) -> bool {
        match error {
            WptError::Jws(JwsError::BadSignature) => self.makes(Weakness::ProofUnverified),
            WptError::WrongHash { claim: "wth" } => self.makes(Weakness::AnyWitOfProof),
            WptError::WrongAudience { .. } => self.makes(Weakness::AnyTargetOfProof),
            _ => false,
        }
    }

    fn wit_issuer(&self, kid: &str) -> Option<WitIssuer> {
        let key = self.holders.wits.public_key();
        key.is_named(kid).then(|| WitIssuer {
            kid: kid.to_owned(),
            key: key.clone(),
            trust_domain: self.trust_domain.clone(),
            issuer: None,
        })
    }
}
