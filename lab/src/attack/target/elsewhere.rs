//! What else there is to attack: the authority, its nodes, and the socket on which workloads ask.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use countersign_identity::Mode;
use countersign_wire::{
    SecretText,
    api::{
        nodes::{JoinToken, NewJoinToken},
        revocations::{NewRevocation, Revocation, RevocationKind},
        services::{NewService, Service},
        users::{NewPassword, User},
    },
};

use super::{Field, Target, live::REVOKED_WITHIN};
use crate::{attack::AttackError, weak::Weak};

impl Target {
    /// Where the authority's API is.
    #[must_use]
    pub fn authority(&self) -> SocketAddr {
        match &self.0 {
            Field::Live(live) => live.settings().authority,
            Field::Weak(weak) => weak.authority(),
        }
    }

    /// Where its API for nodes is.
    ///
    /// # Errors
    /// Nobody knows.
    pub fn nodes(&self) -> Result<SocketAddr, AttackError> {
        let nodes = match &self.0 {
            Field::Live(live) => live.settings().nodes,
            Field::Weak(weak) => Some(weak.nodes()),
        };
        nodes.ok_or(AttackError::Absent { what: "known api for nodes" })
    }

    /// Where workloads ask for their identity.
    #[must_use]
    pub fn agent_socket(&self) -> &Path {
        match &self.0 {
            Field::Live(live) => &live.settings().agent_socket,
            Field::Weak(weak) => weak.agent_socket(),
        }
    }

    /// The password of a user.
    ///
    /// # Errors
    /// It is nowhere.
    pub fn password(&self, user: &str) -> Result<String, AttackError> {
        match &self.0 {
            Field::Live(live) => live.password(user),
            Field::Weak(_) => Ok(Weak::password(user)),
        }
    }

    /// Opens the account of a user again, as an administrator does.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn unlock(&self, user: &str, password: &str) -> Result<(), AttackError> {
        let Field::Live(live) = &self.0 else { return Ok(()) };
        let order = NewPassword { password: SecretText::new(password.to_owned()) };
        let _: User = live.post(&format!("/api/v1/users/{user}/password"), &order).await?;
        Ok(())
    }

    /// Takes back one access token, as an administrator does, and waits until the edge knows.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn take_back(&self, jti: &str) -> Result<(), AttackError> {
        match &self.0 {
            Field::Live(live) => {
                let order = NewRevocation { kind: RevocationKind::Token, id: jti.to_owned() };
                let _: Revocation = live.post("/api/v1/revocations", &order).await?;
                tokio::time::sleep(REVOKED_WITHIN).await;
            }
            Field::Weak(weak) => weak.take_back(jti),
        }
        Ok(())
    }

    /// A token with which one node may join, as an administrator makes it.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn join_token(&self, node: &str) -> Result<String, AttackError> {
        match &self.0 {
            Field::Live(live) => {
                let node = node.parse().map_err(|error| AttackError::equipment("a join token", error))?;
                let order = NewJoinToken { node, ttl_s: Some(60) };
                let made: JoinToken = live.post("/api/v1/join-tokens", &order).await?;
                Ok(made.token.expose().to_owned())
            }
            Field::Weak(weak) => Ok(weak.join_token(node)),
        }
    }

    /// The name of a service that another uid than ours may launch.
    ///
    /// # Errors
    /// It could not be registered.
    pub async fn service_of_another_uid(&self) -> Result<String, AttackError> {
        let Field::Live(live) = &self.0 else { return Ok(ANOTHER.to_owned()) };
        let name = ANOTHER.parse().map_err(|error| AttackError::equipment("a service", error))?;
        let order = NewService {
            name,
            // Nothing listens there, and nobody calls it.
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9).to_string(),
            launch_by: vec![nix::unistd::getuid().as_raw().wrapping_add(1)],
            accepts: vec![Mode::Mtls],
            sends: Mode::Mtls,
        };
        let made: Service = live.post("/api/v1/services", &order).await?;
        Ok(made.name.to_string())
    }
}

const ANOTHER: &str = "attack-foreign-uid";
