//! Who is calling: what every kind of evidence ends in.

use crate::{Mode, Possession, Proof, SpiffeId, UnixTime, UserProof, Verified, WorkloadProof};

/// A program that proved its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its full name.
    pub id: SpiffeId,
    /// The certificate that proved it, if one did.
    pub certificate: Option<CertificateFacts>,
}

/// What is remembered of a certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Serial number, lower-case hexadecimal.
    pub serial_hex: String,
    /// SHA-256 over the DER, lower-case hexadecimal.
    pub thumbprint_sha256_hex: String,
    /// When it expires.
    pub not_after: UnixTime,
}

/// A person whose token was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Opaque and immutable, `u_…`.
    pub id: String,
    /// What people call them; never an argument for a decision.
    pub name: String,
    /// Their roles when the token was issued.
    pub roles: Vec<String>,
    /// The transaction that the token names.
    pub txn: String,
    /// Who asked for the internal token, if it is one.
    pub requested_by: Option<SpiffeId>,
    /// The workloads that acted for this user so far, first one first, as an issuer of ours vouches for them.
    pub actors: Vec<SpiffeId>,
    /// Whether the evidence that the user showed at first was bound to a key.
    pub possession: Possession,
    /// When the evidence expires.
    pub not_after: UnixTime,
}

/// Who is calling, built only from verified parts: a stranger has neither workload nor user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    workload: Option<Verified<Workload>>,
    user: Option<Verified<User>>,
    chain: Vec<SpiffeId>,
    proof: Proof,
    mode: Mode,
}

impl Caller {
    /// A caller of exactly these parts. `chain` names the workloads that the request came through,
    /// first one first, the caller itself excluded.
    ///
    /// An axis of `proof` never claims evidence for a part that is absent: it is lowered to none.
    #[must_use]
    pub fn new(
        workload: Option<Verified<Workload>>,
        user: Option<Verified<User>>,
        chain: Vec<SpiffeId>,
        mut proof: Proof,
    ) -> Self {
        if workload.is_none() {
            proof.workload = WorkloadProof::None;
        }
        if user.is_none() {
            proof.user = UserProof::None;
            proof.user_possession = Possession::None;
        }
        let mode = match proof.workload {
            WorkloadProof::None => Mode::None,
            WorkloadProof::Bearer => Mode::Bearer,
            WorkloadProof::Macaroon => Mode::Macaroon,
            WorkloadProof::SignedRequest => Mode::Jwt,
            WorkloadProof::Certificate => Mode::Mtls,
        };
        Self { workload, user, chain, proof, mode }
    }

    /// The same caller, where two modes have the same axes: a signed request may be a WIMSE one, and a certificate
    /// may have been joined by a token.
    #[must_use]
    pub const fn proven_in(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The mode that was verified, for people: floors and counters read it, policies never.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The calling program, if one proved itself.
    #[must_use]
    pub const fn workload(&self) -> Option<&Verified<Workload>> {
        self.workload.as_ref()
    }

    /// The person on whose behalf it calls, if one was proven.
    #[must_use]
    pub const fn user(&self) -> Option<&Verified<User>> {
        self.user.as_ref()
    }

    /// The workloads that the request came through, first one first.
    #[must_use]
    pub fn chain(&self) -> &[SpiffeId] {
        &self.chain
    }

    /// How all of this was proven.
    #[must_use]
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Binding, Freshness};

    const CLAIMED: Proof = Proof {
        workload: WorkloadProof::Certificate,
        binding: Binding::CHANNEL,
        user: UserProof::InternalToken,
        user_possession: Possession::None,
        freshness: Freshness::Connection,
    };

    #[test]
    fn a_stranger_has_no_identity_and_no_proof_of_one() {
        let stranger = Caller::new(None, None, Vec::new(), CLAIMED);
        assert!(stranger.workload().is_none());
        assert!(stranger.user().is_none());
        assert_eq!(stranger.proof().workload, WorkloadProof::None);
        assert_eq!(stranger.proof().user, UserProof::None);
    }

    #[test]
    fn a_cron_job_has_a_workload_and_no_user() {
        let id = SpiffeId::parse("spiffe://td/svc/cron").unwrap();
        let workload = Verified::vouch(Workload { id: id.clone(), certificate: None });
        let caller = Caller::new(Some(workload), None, vec![id.clone()], CLAIMED);
        assert_eq!(caller.workload().unwrap().id, id);
        assert_eq!(caller.chain(), [id]);
        assert_eq!(caller.proof().workload, WorkloadProof::Certificate);
        assert_eq!(caller.proof().user, UserProof::None);
    }
}
