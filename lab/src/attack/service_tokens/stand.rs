//! Where attackers with keys of their own stand: a connection that is in order, on which an honest token is believed.

use std::time::Duration;

use countersign_wire::codes::Code;

use crate::attack::{
    AttackError, Held, Kind, Observation, Target,
    forge::Draft,
    target::{LIFE, OWN, VICTIM},
    wire::{Connection, Request},
};

/// A connection that is in order, and what signs.
pub(super) struct Stand {
    pub(super) connection: Connection,
    pub(super) signer: Held,
}

impl Stand {
    /// As the service that the attacker runs.
    pub(super) async fn of_own(target: &Target) -> Result<Self, AttackError> {
        Self::of(target, OWN).await
    }

    /// As this service.
    pub(super) async fn of(target: &Target, service: &str) -> Result<Self, AttackError> {
        let tls = target.certified(service, Kind::Workload, LIFE).await?;
        let signer = target.certified(service, Kind::Signing, LIFE).await?;
        Ok(Self { connection: target.connect(Some(&tls)).await?, signer })
    }

    pub(super) fn draft(&self, target: &Target, request: Request) -> Result<Draft, AttackError> {
        let victim = target.id(VICTIM)?;
        Draft::honest(&self.signer, &victim, request, self.connection.exporter)
    }

    pub(super) async fn sent(
        &mut self,
        target: &Target,
        what: impl Into<String>,
        request: &Request,
    ) -> Observation {
        let exchanged = self.connection.send(request).await;
        target.observed(what, exchanged).await
    }

    /// The honest twin, which must be believed. A callee that has just started believes no token without a connection
    /// in its first seconds.
    pub(super) async fn honest(&mut self, target: &Target, request: &Request) -> Result<(), AttackError> {
        let mut answer = String::new();
        for _ in 0..PATIENCE {
            let sealed = self.draft(target, request.clone())?.sealed()?;
            let seen = self.sent(target, "", &sealed).await;
            if seen.is_believed() {
                return Ok(());
            }
            answer = seen.told();
            if !answer.contains(&Code::ProofBeforeStart.to_string()) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(AttackError::HonestRefused { answer })
    }
}

/// Seconds that a callee may need after its start before it believes a token that names no connection.
const PATIENCE: u32 = 15;
