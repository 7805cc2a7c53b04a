//! The processes of a chain: started, and waited for until they serve. They end with us, however we end: our end of a pipe
//! to each closes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use countersign_identity::ServiceName;
use countersign_wire::snapshot::Jwk;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    chains::{ChainError, Kind},
    claims::CLASSICAL,
    data::LabMode,
    deployment::Deployment,
    meter,
    sidecars::{AppService, Side, Sidecar},
};
use crate::relay::Ready;

/// A process of a chain, a relay or a sidecar. Dropped, it ends.
#[derive(Debug)]
pub struct Relay {
    /// The registered service that it is.
    pub service: ServiceName,
    /// Its number for the system.
    pub pid: u32,
    /// Probes and metrics.
    pub admin: SocketAddr,
    /// Where load comes in: heads only.
    pub plain: Option<SocketAddr>,
    pub(super) _child: Child,
}

/// Ports of one process; a relay chooses all but the first itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) listen: SocketAddr,
    admin: SocketAddr,
    plain: SocketAddr,
}

impl Ports {
    /// They stay free until the listeners that are `held` go.
    pub(super) fn free(held: &mut Vec<TcpListener>) -> Result<Self, ChainError> {
        Ok(Self { listen: free_port(held)?, admin: free_port(held)?, plain: free_port(held)? })
    }
}

/// Below the range from which the kernel takes ports for outgoing connections, of which a run makes many.
fn free_port(held: &mut Vec<TcpListener>) -> Result<SocketAddr, ChainError> {
    let mut tried = (0..TRIES).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(PORTS))));
    let listener = match tried.find(Result::is_ok) {
        Some(listener) => listener?,
        None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
    };
    let address = listener.local_addr()?;
    held.push(listener);
    Ok(address)
}

/// What every process is started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starter<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) program: &'a Path,
    pub(super) logs: &'a Path,
}

impl Starter<'_> {
    /// A relay at its `place` of a chain.
    pub(super) fn relay(
        &self,
        kind: &Kind,
        (place, last): (usize, bool),
        ports: &Ports,
    ) -> Result<Starting, ChainError> {
        let service = kind.service(place)?;
        let mut command = Command::new(self.program);
        command.arg("lab-relay").arg("--service").arg(service.as_str());
        command.arg("--listen").arg(ports.listen.to_string());
        command.arg("--agent-socket").arg(self.deployment.agent_socket());
        if place == 0 {
            command.arg("--head");
        }
        if !last {
            command.arg("--next").arg(kind.service(place + 1)?.as_str());
        } else if !kind.delay.is_zero() {
            command.arg("--delay-us").arg(kind.delay.as_micros().to_string());
        }
        if let Some(signing) = kind.signing.filter(|_| !last) {
            command.arg("--signing").arg(signing.jose_name().to_ascii_lowercase());
        }
        if !kind.post_quantum {
            command.arg("--group").arg(CLASSICAL);
        }
        if kind.mode == LabMode::Tls {
            command.arg("--calls-without-proof-over-tls");
        }
        // Warnings are left out: mode `none` has one for each connection.
        command.env("COUNTERSIGN_LOG", "error").stderr(self.log(&service)?);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        Ok(Starting { service, child, sidecar: None })
    }

    /// A sidecar: the first of a chain calls, the second stands in front of `app`.
    pub(super) fn sidecar(
        &self,
        kind: &Kind,
        place: usize,
        ports: &Ports,
        app: &AppService,
    ) -> Result<Starting, ChainError> {
        let service = kind.service(place)?;
        let side = match place {
            0 => Side::Caller { plain: ports.plain },
            _ => Side::Callee { inbound: ports.listen, app: app.app },
        };
        let sidecar = Sidecar { service: &service, admin: ports.admin, side };
        let child = sidecar.spawn(self.deployment, self.program, self.logs, self.log(&service)?)?;
        Ok(Starting { service, child, sidecar: Some(*ports) })
    }

    fn log(&self, service: &ServiceName) -> std::io::Result<std::fs::File> {
        std::fs::File::create(self.logs.join(format!("{service}.log")))
    }
}

/// A process that was started and does not serve yet.
pub(super) struct Starting {
    service: ServiceName,
    child: Child,
    /// Where a sidecar will be; a relay says by itself where it is.
    sidecar: Option<Ports>,
}

impl Starting {
    /// The process once it serves, and the key that it signs with where that has to be registered.
    pub(super) async fn ready(self, logs: &Path) -> Result<(Relay, Option<Jwk>), ChainError> {
        match self.sidecar {
            Some(ports) => self.answers(ports, logs).await.map(|relay| (relay, None)),
            None => self.says(logs).await,
        }
    }

    async fn says(mut self, logs: &Path) -> Result<(Relay, Option<Jwk>), ChainError> {
        let not_started = || not_started(&self.service, logs);
        let mut lines = BufReader::new(self.child.stdout.take().ok_or_else(not_started)?).lines();
        let line = timeout(START, lines.next_line()).await.ok().and_then(Result::ok).flatten();
        let ready = line.and_then(|line| serde_json::from_str::<Ready>(&line).ok());
        let ready = ready.ok_or_else(not_started)?;
        let jwk = ready.jwk.map(|jwk| Jwk::from_text(jwk.get())).transpose().map_err(|_| not_started())?;
        let pid = self.child.id().ok_or_else(not_started)?;
        let (admin, plain) = (ready.admin, ready.plain);
        Ok((Relay { service: self.service, pid, admin, plain, _child: self.child }, jwk))
    }

    async fn answers(mut self, ports: Ports, logs: &Path) -> Result<Relay, ChainError> {
        let deadline = Instant::now() + START;
        while !matches!(meter::get(ports.admin, "/readyz").await, Ok((200, _))) {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(not_started(&self.service, logs));
            }
            tokio::time::sleep(AGAIN).await;
        }
        let pid = self.child.id().ok_or_else(|| not_started(&self.service, logs))?;
        let Ports { admin, plain, .. } = ports;
        Ok(Relay { service: self.service, pid, admin, plain: Some(plain), _child: self.child })
    }
}

fn not_started(service: &ServiceName, logs: &Path) -> ChainError {
    let said = std::fs::read_to_string(logs.join(format!("{service}.log"))).unwrap_or_default();
    let said = said.lines().last().unwrap_or("it said nothing in time").to_owned();
    ChainError::NotStarted { service: service.to_string(), said }
}

const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 64;
const START: Duration = Duration::from_secs(150);
const AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_process_that_ends_before_it_serves_is_told_with_its_last_words() {
        let logs = tempfile::tempdir().unwrap();
        std::fs::write(logs.path().join("relay-x-0.log"), "first\nno identity\n").unwrap();
        let ports = Ports::free(&mut Vec::new()).unwrap();
        for sidecar in [None, Some(ports)] {
            let child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
            let starting = Starting { service: ServiceName::parse("relay-x-0").unwrap(), child, sidecar };
            let refused = starting.ready(logs.path()).await.map(|_| ()).unwrap_err();
            let as_it_said = matches!(&refused, ChainError::NotStarted { said, .. } if said == "no identity");
            assert!(as_it_said, "{refused}");
        }
    }

    #[test]
    fn ports_are_free_and_none_is_given_twice() {
        let mut held = Vec::new();
        let given: Vec<Ports> = (0..8).map(|_| Ports::free(&mut held).unwrap()).collect();
        let mut ports: Vec<u16> = given
            .iter()
            .flat_map(|ports| [ports.listen, ports.admin, ports.plain])
            .map(|address| address.port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 24);
        drop(held);
        assert!(ports.into_iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()));
    }
}
