//! A deployment of its own, started and spoken to as a user does: by the program's own commands, and by the API behind
//! the administration socket.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use countersign_identity::TrustDomain;
use countersign_sdk::outbound::{CallLimits, Channel, Target, full};
use countersign_wire::{
    SecretText,
    api::{modes::ChangeModes, services::NewService, workload_keys::NewWorkloadKey},
};
use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Limited};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

/// A running deployment that belongs to the experiment. Dropped, it is told to end; it removes itself then.
#[derive(Debug)]
pub struct Deployment {
    program: PathBuf,
    state_dir: PathBuf,
    supervisor: Child,
    admin: Channel,
    ready: Ready,
    node: String,
}

/// What of the ready line is used.
#[derive(Debug, Deserialize)]
struct Ready {
    trust_domain: TrustDomain,
    agent_socket: PathBuf,
}

/// What of the configuration that it wrote for itself is used.
#[derive(Debug, Deserialize)]
struct Written {
    agent: WrittenAgent,
}

#[derive(Debug, Deserialize)]
struct WrittenAgent {
    authority_node: String,
}

/// Why there is no deployment, or it does not do as it is told.
#[derive(Debug, Error)]
pub enum DeploymentError {
    /// The system.
    #[error("{what}: {source}")]
    System {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: io::Error,
    },
    /// It did not become ready.
    #[error("the deployment does not become ready: {said}")]
    NotReady {
        /// Its last words.
        said: String,
    },
    /// A command of the program failed.
    #[error("countersign {command} failed: {said}")]
    Command {
        /// Which.
        command: String,
        /// What it said.
        said: String,
    },
    /// The authority refused, or did not answer.
    #[error("{path} was refused by the authority: {said}")]
    Refused {
        /// What was asked.
        path: String,
        /// What it said.
        said: String,
    },
}

impl Deployment {
    /// Starts `program up` with all its state below `directory`, which is empty.
    ///
    /// # Errors
    /// It does not become ready; its last words tell why.
    pub async fn start(program: &Path, directory: &Path) -> Result<Self, DeploymentError> {
        let state_dir = directory.join("deployment");
        let log = directory.join("up.log");
        let file = std::fs::File::create(&log).map_err(|source| system("cannot write a log", source))?;
        let mut supervisor = Command::new(program)
            .arg("--state-dir")
            .arg(&state_dir)
            // It ends with us, however we end: our end of this pipe closes.
            .args(["up", "--ephemeral", "--json", "--until-stdin-closes"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|source| system("cannot start the deployment", source))?;
        let line = ready_line(&mut supervisor).await;
        let ready = line.as_deref().and_then(|line| serde_json::from_str::<Ready>(line).ok());
        let Some(ready) = ready else {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(DeploymentError::NotReady { said: last_words(&said) });
        };
        let config = std::fs::read_to_string(state_dir.join("countersign.toml"))
            .map_err(|source| system("cannot read the configuration of the deployment", source))?;
        let written: Written =
            toml::from_str(&config).map_err(|error| DeploymentError::NotReady { said: error.to_string() })?;
        let node = written.agent.authority_node;
        let admin = Channel::new(Target::Unix(state_dir.join("admin.sock")), CallLimits::default());
        Ok(Self { program: program.to_owned(), state_dir, supervisor, admin, ready, node })
    }

    /// Where all its names are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.ready.trust_domain
    }

    /// The agent's socket.
    #[must_use]
    pub fn agent_socket(&self) -> &Path {
        &self.ready.agent_socket
    }

    /// Where the authority speaks to agents.
    #[must_use]
    pub fn node_address(&self) -> &str {
        &self.node
    }

    /// The authority's process: whoever listens behind its socket.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn authority_pid(&self) -> Result<u32, DeploymentError> {
        let socket = UnixStream::connect(self.state_dir.join("admin.sock")).await;
        let pid = socket.and_then(|socket| socket.peer_cred()).map(|peer| peer.pid());
        let pid = pid.map_err(|source| system("cannot find the authority's process", source))?;
        let unknown = || system("cannot find the authority's process", io::ErrorKind::NotFound.into());
        pid.and_then(|pid| u32::try_from(pid).ok()).ok_or_else(unknown)
    }

    /// Registers a service.
    ///
    /// # Errors
    /// The authority refuses.
    pub async fn register(&self, service: &NewService) -> Result<(), DeploymentError> {
        self.post("/api/v1/services", service).await
    }

    /// Changes how a service proves itself, and how it carries users along.
    ///
    /// # Errors
    /// The authority refuses.
    pub async fn change_modes(&self, service: &str, modes: &ChangeModes) -> Result<(), DeploymentError> {
        self.post(&format!("/api/v1/services/{service}/modes"), modes).await
    }

    /// Registers a key with which a service signs.
    ///
    /// # Errors
    /// The authority refuses.
    pub async fn register_key(&self, service: &str, key: &NewWorkloadKey) -> Result<(), DeploymentError> {
        self.post(&format!("/api/v1/services/{service}/keys"), key).await
    }

    /// Writes the rules of one target; what stood there before stays, and comes first. In force after
    /// [`Deployment::reload_policies`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_policies(&self, target: &str, rules: &str) -> Result<(), DeploymentError> {
        let path = self.state_dir.join("policies").join(format!("{target}.cedar"));
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(system("cannot read a policy file", source)),
        };
        std::fs::write(&path, before + rules).map_err(|source| system("cannot write a policy file", source))
    }

    /// Puts the rules of all files into force.
    ///
    /// # Errors
    /// One of them is wrong.
    pub async fn reload_policies(&self) -> Result<(), DeploymentError> {
        self.post("/api/v1/policies/reload", &serde_json::json!({})).await
    }

    /// An internal token about somebody, as the token service gives it to `service` (five minutes at most). Who it is about
    /// only `service` says: a name is all that the experiment needs of a user.
    ///
    /// # Errors
    /// A command fails.
    pub async fn internal_token(&self, user: &str, service: &str) -> Result<SecretText, DeploymentError> {
        let directory = self.state_dir.join("lab").join(service);
        let at = |name: &str| directory.join(name);
        if !at("cert.pem").exists() {
            std::fs::create_dir_all(&directory)
                .map_err(|source| system("cannot make a directory", source))?;
            let out = directory.display().to_string();
            self.command(&["cert", "issue", "--service", service, "--ttl", LONGEST_RUN, "--out", &out])
                .await?;
        }
        let subject = at("subject.json");
        let stated = serde_json::json!({ "sub": user }).to_string();
        std::fs::write(&subject, stated).map_err(|source| system("cannot write a file", source))?;
        let [subject, cert, key] =
            [subject, at("cert.pem"), at("key.pem")].map(|path| path.display().to_string());
        let audience = format!("spiffe://{}", self.trust_domain());
        self.command(&[
            "token",
            "exchange",
            "--subject-token",
            &subject,
            "--subject-type",
            STATED,
            "--requested-type",
            "txn_token",
            "--audience",
            &audience,
            "--scope",
            SCOPE,
            "--cert",
            &cert,
            "--key",
            &key,
        ])
        .await
    }

    /// What a command of the program prints.
    async fn command(&self, arguments: &[&str]) -> Result<SecretText, DeploymentError> {
        let output = Command::new(&self.program)
            .arg("--state-dir")
            .arg(&self.state_dir)
            .args(arguments.iter().map(OsStr::new))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| system("cannot run a command", source))?;
        if output.status.success() {
            return Ok(SecretText::new(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
        }
        let command = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let said = last_words(&String::from_utf8_lossy(&output.stderr));
        Err(DeploymentError::Command { command, said })
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), DeploymentError> {
        let refused = |said: String| DeploymentError::Refused { path: path.to_owned(), said };
        let body = serde_json::to_vec(body).map_err(|error| refused(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(full(body))
            .map_err(|error| refused(error.to_string()))?;
        let answer = self.admin.send(request).await.map_err(|error| refused(error.to_string()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), PROBLEM_BYTES_MAX).collect().await;
        let problem: Value =
            body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok()).unwrap_or_default();
        let member = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(refused(format!("{status} {} {}", member("title"), member("detail"))))
    }

    /// Ends it, and waits until nothing of it is left.
    pub async fn end(mut self) {
        self.terminate();
        if timeout(END, self.supervisor.wait()).await.is_err() {
            tracing::warn!("the experiment's deployment does not end in time");
        }
    }

    fn terminate(&self) {
        if let Some(pid) = self.supervisor.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.terminate();
    }
}

async fn ready_line(supervisor: &mut Child) -> Option<String> {
    let mut lines = BufReader::new(supervisor.stdout.take()?).lines();
    timeout(START, lines.next_line()).await.ok()?.ok()?
}

fn system(what: &str, source: io::Error) -> DeploymentError {
    DeploymentError::System { what: what.to_owned(), source }
}

fn last_words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let first = lines.len().saturating_sub(LINES_SAID);
    lines.get(first..).unwrap_or_default().join("; ")
}

/// How long a long run may take.
const LONGEST_RUN: &str = "24h";
/// A subject by the word of whoever asks (draft-ietf-oauth-transaction-tokens).
const STATED: &str = "urn:ietf:params:oauth:token-type:unsigned_json";
/// What the transaction is for.
const SCOPE: &str = "lab";
const START: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(30);
const PROBLEM_BYTES_MAX: usize = 64 * 1024;
const LINES_SAID: usize = 5;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_program_that_cannot_be_started_or_does_not_become_ready_is_no_deployment() {
        let directory = tempfile::tempdir().unwrap();
        let absent = Deployment::start(Path::new("/nowhere/countersign"), directory.path()).await;
        assert!(matches!(absent.unwrap_err(), DeploymentError::System { .. }));
        // It ends without a word.
        let silent = Deployment::start(Path::new("true"), directory.path()).await;
        assert!(matches!(silent.unwrap_err(), DeploymentError::NotReady { .. }));
    }

    #[tokio::test]
    async fn a_command_that_fails_and_an_authority_that_does_not_answer_are_told_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().to_owned();
        let ready = Ready {
            trust_domain: TrustDomain::parse("td").unwrap(),
            agent_socket: state_dir.join("agent.sock"),
        };
        let deployment = Deployment {
            program: PathBuf::from("false"),
            admin: Channel::new(Target::Unix(state_dir.join("admin.sock")), CallLimits::default()),
            supervisor: Command::new("true").spawn().unwrap(),
            state_dir,
            ready,
            node: String::new(),
        };
        let failed = deployment.internal_token("alice", "a").await.map(|_| ()).unwrap_err();
        assert!(matches!(failed, DeploymentError::Command { command, .. } if command == "cert issue"));
        let refused = deployment.reload_policies().await.unwrap_err();
        assert!(matches!(refused, DeploymentError::Refused { .. }));
        deployment.add_policies("a", "// one\n").unwrap_err();
        std::fs::create_dir(directory.path().join("policies")).unwrap();
        deployment.add_policies("a", "// one\n").unwrap();
        deployment.add_policies("a", "// two\n").unwrap();
        let rules = std::fs::read_to_string(directory.path().join("policies/a.cedar")).unwrap();
        assert_eq!(rules, "// one\n// two\n");
    }

    #[test]
    fn of_a_long_log_the_end_is_told() {
        assert_eq!(last_words("1\n2\n3\n4\n5\n6\n"), "2; 3; 4; 5; 6");
    }
}
