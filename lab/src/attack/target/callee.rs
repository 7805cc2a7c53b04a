//! A callee of the attacker's own, in modes that the user's services need not accept: a process of this very program
//! with the door of the SDK, registered like any service. Nobody may do anything there, so whoever is believed is told
//! that no rule permits it, and nothing else.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use countersign_identity::Mode;
use countersign_wire::{
    SecretText,
    api::{
        modes::{LowerFloor, ModesChanged},
        tokens::{Bearer, IssuedToken, NewBearer, NewMacaroon},
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

use super::{CALLEE, Live, OWN};
use crate::attack::AttackError;

/// The process, for as long as the target lives.
pub(super) struct Callee {
    pub(super) address: SocketAddr,
    _process: Child,
}

impl Live {
    /// Where it listens; it is started when it is asked for the first time.
    pub(super) async fn callee(&self) -> Result<SocketAddr, AttackError> {
        self.callee.get_or_try_init(|| self.start_callee()).await.map(|callee| callee.address)
    }

    async fn start_callee(&self) -> Result<Callee, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a callee of its own", why);
        // Free at this moment: the process opens it again, and says so if somebody was faster.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| failed(&error))?;
        let address = free.local_addr().map_err(|error| failed(&error))?;
        drop(free);
        let accepts = vec![Mode::Bearer, Mode::Macaroon, Mode::Wimse];
        let registered = self.register(CALLEE, address, accepts.clone()).await?;
        // Since it was registered by an earlier attack, all modes of the deployment may have been switched.
        if registered.accepts != accepts {
            let floor = LowerFloor { accepts, for_s: FLOOR_SECONDS };
            let _: ModesChanged = self.post(&format!("/api/v1/services/{CALLEE}/floor"), &floor).await?;
        }
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut last = String::new();
        // The agent learns of the entry with its next snapshot.
        for _ in 0..TRIES {
            match self.spawn(&program, address).await {
                Ok(process) => return Ok(Callee { address, _process: process }),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        Err(failed(&last))
    }

    async fn spawn(&self, program: &std::path::Path, address: SocketAddr) -> Result<Child, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a callee of its own", why);
        let mut command = Command::new(program);
        command.arg("lab-relay").arg("--service").arg(CALLEE).arg("--listen").arg(address.to_string());
        command.arg("--agent-socket").arg(&self.settings().agent_socket);
        // It ends with us: our end of its standard input closes.
        command
            .env("COUNTERSIGN_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.kill_on_drop(true).spawn().map_err(|error| failed(&error))?;
        let out = process.stdout.take().ok_or_else(|| failed(&"it has no output"))?;
        let line = timeout(READY_WITHIN, BufReader::new(out).lines().next_line()).await;
        match line {
            Ok(Ok(Some(_))) => Ok(process),
            _ => Err(failed(&"it does not become ready")),
        }
    }

    pub(super) async fn bearer(&self, scope: &str) -> Result<IssuedToken, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a bearer token", why);
        let (service, scope) = (OWN.parse(), scope.parse());
        let order = NewBearer {
            service: service.map_err(|error| failed(&error))?,
            scope: vec![scope.map_err(|error| failed(&error))?],
            ttl_s: Some(600),
        };
        self.post("/api/v1/tokens/bearer", &order).await
    }

    pub(super) async fn revoke_bearer(&self, id: &str) -> Result<(), AttackError> {
        let nothing = serde_json::json!({});
        let _: Bearer = self.post(&format!("/api/v1/tokens/bearer/{id}/revoke"), &nothing).await?;
        Ok(())
    }

    pub(super) async fn macaroon(&self, callee: &str, caveats: &[&str]) -> Result<SecretText, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a macaroon", why);
        let (service, callee) = (OWN.parse(), callee.parse());
        let order = NewMacaroon {
            service: service.map_err(|error| failed(&error))?,
            callee: callee.map_err(|error| failed(&error))?,
            ttl_s: Some(600),
            caveats: caveats.iter().map(|caveat| (*caveat).to_owned()).collect(),
            discharge_for: None,
        };
        let issued: IssuedToken = self.post("/api/v1/tokens/macaroon", &order).await?;
        Ok(issued.token)
    }
}

/// Longer than any attack.
const FLOOR_SECONDS: u64 = 3600;
const TRIES: usize = 20;
const TRY_AGAIN: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(20);
