//! Services of somebody else: any that speak HTTP on a loopback port. Each stands behind a sidecar, and another sidecar
//! calls it, so that the one edge between the two proves who is calling in every mode, and the service changes no line.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use countersign_identity::ServiceName;
use serde::Deserialize;
use thiserror::Error;
use tokio::process::{Child, Command};

use super::deployment::Deployment;

/// What `--target` names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// One chain for each of them and each mode.
    pub service: Vec<AppService>,
}

/// A service that runs already.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppService {
    /// What the report calls it: lower-case letters, digits and `-`.
    pub name: String,
    /// Where it listens, in plain HTTP on loopback.
    pub app: SocketAddr,
    /// What is asked for: `GET` of this path must be answered with 2xx or 3xx.
    pub path: String,
}

/// Why a file names no services that could be measured.
#[derive(Debug, Error)]
pub enum AppError {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not of this form.
    #[error("{path} names no services: {why}")]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Load is for one's own machine.
    #[error("{name} listens on {app}: only services on a loopback address are put under load")]
    NotLoopback {
        /// Which.
        name: String,
        /// Where.
        app: SocketAddr,
    },
}

impl App {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn read(path: &Path) -> Result<Self, AppError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| AppError::Read { path: path.to_owned(), source })?;
        let form = |why: String| AppError::Form { path: path.to_owned(), why };
        let app: Self = toml::from_str(&text).map_err(|error| form(error.to_string()))?;
        if app.service.is_empty() || app.service.len() > SERVICES_MAX {
            return Err(form(format!("name 1 to {SERVICES_MAX} [[service]]")));
        }
        for service in &app.service {
            let AppService { name, app, path } = service;
            let short = name.len() <= NAME_CHARS_MAX && ServiceName::parse(name).is_ok();
            if !short {
                return Err(form(format!("{name:?} is no name: up to {NAME_CHARS_MAX} of a-z, 0-9 and '-'")));
            }
            if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(form(format!("{path:?} is no path: write one such as /orders/7")));
            }
            if !app.ip().is_loopback() {
                return Err(AppError::NotLoopback { name: name.clone(), app: *app });
            }
        }
        let mut names: Vec<&str> = app.service.iter().map(|service| service.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() < app.service.len() {
            return Err(form("two services have the same name".to_owned()));
        }
        Ok(app)
    }
}

/// One of the two sidecars of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sidecar<'a> {
    /// In whose name it calls and is called.
    pub(super) service: &'a ServiceName,
    /// Probes and metrics.
    pub(super) admin: SocketAddr,
    pub(super) side: Side,
}

/// On which side of the edge.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// Takes load on this port and calls whom `Host` names.
    Caller { plain: SocketAddr },
    /// Is called here, in front of the service there.
    Callee { inbound: SocketAddr, app: SocketAddr },
}

impl Sidecar<'_> {
    /// Starts it with its configuration, which is one as anywhere else.
    pub(super) fn spawn(
        &self,
        deployment: &Deployment,
        program: &Path,
        directory: &Path,
        log: std::fs::File,
    ) -> io::Result<Child> {
        let state = directory.join(self.service.as_str());
        std::fs::create_dir_all(&state)?;
        let config = directory.join(format!("{}.toml", self.service));
        std::fs::write(&config, self.configuration(deployment, &state))?;
        let mut command = Command::new(program);
        command.args(["serve", "sidecar", "--until-stdin-closes", "--config"]).arg(config);
        command.env("COUNTERSIGN_LOG", "error").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        command.kill_on_drop(true).spawn()
    }

    fn configuration(&self, deployment: &Deployment, state: &Path) -> String {
        let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        let ports = match self.side {
            Side::Caller { plain } => format!("outbound_on_loopback_port_insecure = \"{plain}\"\n"),
            Side::Callee { inbound, app } => {
                format!("inbound = \"{inbound}\"\napp_on_loopback_port_insecure = \"{app}\"\n")
            }
        };
        format!(
            "trust_domain = \"{}\"\nstate_dir = {}\n\n[agent]\nauthority_node = \"{}\"\nsocket = {}\n\n\
             [sidecar]\nservice = \"{}\"\nadmin = \"{}\"\n{ports}",
            deployment.trust_domain(),
            quoted(state),
            deployment.node_address(),
            quoted(deployment.agent_socket()),
            self.service,
            self.admin,
        )
    }
}

const SERVICES_MAX: usize = 16;
/// The names of its sidecars say the mode as well.
const NAME_CHARS_MAX: usize = 24;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<App, AppError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.toml");
        std::fs::write(&path, text).unwrap();
        App::read(&path)
    }

    #[test]
    fn reads_services_on_this_machine() {
        let app =
            read("[[service]]\nname = \"orders\"\napp = \"127.0.0.1:8080\"\npath = \"/orders/7\"\n").unwrap();
        let orders = app.service.first().unwrap();
        assert_eq!(
            (orders.name.as_str(), orders.path.as_str(), orders.app.port()),
            ("orders", "/orders/7", 8080)
        );
    }

    #[test]
    fn rejects_services_of_other_machines() {
        let foreign = read("[[service]]\nname = \"orders\"\napp = \"192.0.2.1:80\"\npath = \"/\"\n");
        assert!(matches!(foreign, Err(AppError::NotLoopback { .. })));
    }

    #[test]
    fn rejects_files_that_name_no_services() {
        let service = "[[service]]\nname = \"a\"\napp = \"127.0.0.1:1\"\npath = \"/\"\n";
        let wrong = [
            String::new(),
            "service = []".to_owned(),
            service.replace("\"a\"", "\"A B\""),
            service.replace("\"/\"", "\"orders\""),
            service.replace("\"/\"", "\"/a b\""),
            service.replace("127.0.0.1:1", "localhost"),
            format!("{service}port = 7\n"),
            format!("{service}{service}"),
            service.repeat(17),
        ];
        for text in wrong {
            assert!(matches!(read(&text), Err(AppError::Form { .. })), "{text}");
        }
        assert!(matches!(App::read(Path::new("/nowhere/app.toml")), Err(AppError::Read { .. })));
    }
}
