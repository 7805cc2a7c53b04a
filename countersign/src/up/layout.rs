//! What a new deployment looks like on disk, and the configuration file that `up` writes: the same file, edited,
//! is a production configuration.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use countersign_identity::TrustDomain;
use countersign_keys::{MasterKey, SystemRandom, sha256_hex};

use crate::cli::serve::{sidecar_file, sidecar_sockets};
use crate::config::{Config, DemoService};
use crate::error::CliError;
use crate::output;
use crate::up::lock;
use crate::up::ports::Ports;
use crate::up::write_private;

/// The flea market's six services, in the order in which their ports are given.
pub const SERVICES: [&str; 6] = ["ads", "users", "chat", "media", "subscriptions", "reports"];

/// The gateway's registration entry.
pub const GATEWAY: &str = "gateway";

/// A state directory of one deployment.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Absolute.
    pub state_dir: PathBuf,
}

impl Layout {
    /// The layout of `state_dir`, which is made with mode 0700 where it does not exist.
    ///
    /// # Errors
    /// Exit 2 where it cannot be made, belongs to somebody else, or holds what is no deployment's: `down --purge`
    /// would remove that too.
    pub fn open(state_dir: &Path) -> Result<Self, CliError> {
        std::fs::create_dir_all(state_dir).map_err(|e| unusable(state_dir, &e))?;
        let layout = Self::existing(state_dir)?;
        if !layout.is_deployment() && layout.holds_anything()? {
            return Err(unusable(state_dir, &"it holds files that are not a deployment's"));
        }
        std::fs::set_permissions(&layout.state_dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| unusable(state_dir, &e))?;
        Ok(layout)
    }

    /// The layout of a directory that exists, which stays as it is.
    ///
    /// # Errors
    /// Exit 2 where it is no directory, or belongs to somebody else.
    pub fn existing(state_dir: &Path) -> Result<Self, CliError> {
        let path = state_dir.canonicalize().map_err(|e| unusable(state_dir, &e))?;
        let meta = std::fs::metadata(&path).map_err(|e| unusable(state_dir, &e))?;
        if !meta.is_dir() {
            return Err(unusable(state_dir, &"it is not a directory"));
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(unusable(state_dir, &"it belongs to another user"));
        }
        Ok(Self { state_dir: path })
    }

    /// Whether `up` ever began here, even where it was cut off.
    pub fn is_deployment(&self) -> bool {
        self.config_file().exists() || self.state_dir.join(lock::NAME).exists()
    }

    /// A volume of its own is as good as empty; so is one where `--detach` opened its log just now.
    fn holds_anything(&self) -> Result<bool, CliError> {
        let entries = std::fs::read_dir(&self.state_dir).map_err(|e| unusable(&self.state_dir, &e))?;
        Ok(entries.flatten().any(|entry| entry.file_name() != "lost+found" && entry.path() != self.up_log()))
    }

    /// Log of the supervisor in the background.
    pub fn up_log(&self) -> PathBuf {
        self.state_dir.join("up.log")
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.state_dir.join("countersign.toml")
    }

    /// PEM of the edge root.
    pub fn ca_file(&self) -> PathBuf {
        self.state_dir.join("ca.pem")
    }

    /// The agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.state_dir.join("agent.sock")
    }

    /// The gateway's certificate and key.
    pub fn gateway_tls(&self) -> (PathBuf, PathBuf) {
        (self.state_dir.join("gateway/tls.pem"), self.state_dir.join("gateway/tls.key"))
    }

    /// The password that `up` made for a user.
    pub fn password_file(&self, name: &str) -> PathBuf {
        self.state_dir.join("users").join(format!("{name}.password"))
    }

    /// The agent's single-use join token.
    pub fn join_token_file(&self) -> PathBuf {
        self.state_dir.join("agent/join-token")
    }

    /// Log of one process.
    pub fn log_file(&self, process: &str) -> PathBuf {
        self.state_dir.join("logs").join(format!("{process}.log"))
    }

    /// The configuration of a service's sidecar.
    pub fn sidecar_file(&self, service: &str) -> PathBuf {
        sidecar_file(&self.state_dir, service)
    }

    /// Removes that of an earlier start: whoever reads it would take the service for one behind a sidecar.
    ///
    /// # Errors
    /// Exit 2 where it is there and stays.
    pub fn forget_sidecar(&self, service: &str) -> Result<(), CliError> {
        let file = self.sidecar_file(service);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(CliError::usage(format!("cannot remove {}", file.display()), e, "remove it"))
            }
            _ => Ok(()),
        }
    }

    /// Writes the configuration of the sidecar of a demo service, which is the same as it would be anywhere.
    ///
    /// # Errors
    /// Exit 2 where it cannot be written.
    pub fn write_sidecar(&self, config: &Config, service: &str, at: &DemoService) -> Result<(), CliError> {
        let dir = self.state_dir.join("sidecars");
        std::fs::create_dir_all(&dir)
            .map_err(|e| CliError::usage(format!("cannot make {}", dir.display()), e, "free space"))?;
        let (app, outbound) = sidecar_sockets(&self.state_dir, service);
        let unix = |path: &Path| quoted_text(&format!("unix:{}", path.display()));
        let agent = config.table(&config.agent, "agent")?;
        let text = format!(
            "# Written by `countersign up --sidecar`, at each start.\n\
             trust_domain = \"{trust_domain}\"\n\
             state_dir    = {state}\n\n\
             [agent]\n\
             authority_node = \"{node}\"\n\
             socket         = {socket}\n\n\
             [sidecar]\n\
             service  = \"{service}\"\n\
             inbound  = \"{listen}\"\n\
             app      = {app}\n\
             outbound = {outbound}\n\
             admin    = \"{admin}\"\n",
            trust_domain = config.trust_domain()?,
            state = quoted(&self.state_dir),
            node = agent.authority_node,
            socket = quoted(&agent.socket),
            listen = at.listen,
            app = unix(&app),
            outbound = unix(&outbound),
            admin = at.admin,
        );
        write_private(&self.sidecar_file(service), text.as_bytes())
    }

    /// Whether an authority ever ran here.
    pub fn has_authority(&self) -> bool {
        self.state_dir.join("authority").exists()
    }

    /// Reads the configuration; on the first start writes it, with the policies and the master key.
    ///
    /// # Errors
    /// Exit 2 where a file cannot be written, or the directory serves another trust domain.
    pub fn prepare(&self, trust_domain: Option<&TrustDomain>) -> Result<Config, CliError> {
        if !self.config_file().exists() {
            self.write_first(trust_domain)?;
        }
        let config = Config::read(&self.config_file())?;
        if let Some(wanted) = trust_domain
            && *wanted != config.trust_domain()?
        {
            return Err(CliError::usage(
                format!("{} serves {}, not {wanted}", self.state_dir.display(), config.trust_domain()?),
                "a trust domain is for life: every name and key hangs on it",
                "use another --state-dir",
            ));
        }
        if let (false, Some(authority)) = (self.has_authority(), &config.authority) {
            make_master_key(&authority.master_key)?;
        }
        Ok(config)
    }

    fn write_first(&self, trust_domain: Option<&TrustDomain>) -> Result<(), CliError> {
        for dir in ["agent", "gateway", "logs", "policies", "services", "users"] {
            let dir = self.state_dir.join(dir);
            std::fs::create_dir_all(&dir)
                .map_err(|e| CliError::usage(format!("cannot make {}", dir.display()), e, "free space"))?;
        }
        for service in SERVICES {
            let dir = self.state_dir.join("services").join(service);
            std::fs::create_dir_all(&dir)
                .map_err(|e| CliError::usage(format!("cannot make {}", dir.display()), e, "free space"))?;
        }
        let default = trust_domain.map_or(countersign_flea_market::TRUST_DOMAIN, TrustDomain::as_str);
        for (name, text) in countersign_flea_market::policies_for(default) {
            write_private(&self.state_dir.join("policies").join(format!("{name}.cedar")), text.as_bytes())?;
        }
        let mut ports = Ports::default();
        let text = self.first_config(default, &mut ports)?;
        for (wanted, got) in ports.moved() {
            output::note(format!("port {wanted} is busy, {got} is used instead"));
        }
        write_private(&self.config_file(), text.as_bytes())
    }

    fn first_config(&self, trust_domain: &str, ports: &mut Ports) -> Result<String, CliError> {
        let state = quoted(&self.state_dir);
        let key = quoted(&master_key_path(&self.state_dir)?);
        let uid = nix::unistd::geteuid().as_raw();
        let (authority, node, admin) = (ports.near(7443)?, ports.near(7445)?, ports.near(7442)?);
        let agent_admin = ports.near(7441)?;
        let (http, https, gateway_admin) = (ports.near(7080)?, ports.near(7444)?, ports.near(7081)?);
        let (cert, tls_key) = self.gateway_tls();
        let mut text = format!(
            "# Written by `countersign up`. Edit it: the next start reads it.\n\
             trust_domain = \"{trust_domain}\"\n\
             state_dir    = {state}\n\n\
             [authority]\n\
             listen      = \"{authority}\"\n\
             node_listen = \"{node}\"\n\
             admin       = \"{admin}\"\n\
             public_url  = \"https://{authority}\"\n\
             database    = \"sqlite\"\n\
             svid_ttl    = \"1h\"\n\
             # A demonstration: `countersign demo mode` may switch all services at once, even to mode none. A real\n\
             # deployment has neither line.\n\
             demonstration = true\n\
             strict        = false\n\
             # The key that seals all others. It lies outside the state directory: keep it out of its backups too.\n\
             master_key  = {key}\n\n\
             [policy]\n\
             dir = {policies}\n\n\
             [agent]\n\
             authority_node  = \"{node}\"\n\
             join_token_file = {join}\n\
             socket          = {socket}\n\
             admin           = \"{agent_admin}\"\n\n\
             [gateway]\n\
             listen        = \"{http}\"\n\
             listen_tls    = \"{https}\"\n\
             tls_cert      = {cert}\n\
             tls_key       = {tls_key}\n\
             admin         = \"{gateway_admin}\"\n\
             authority_url = \"https://{authority}\"\n\
             authority_ca  = {ca}\n",
            policies = quoted(&self.state_dir.join("policies")),
            join = quoted(&self.join_token_file()),
            socket = quoted(&self.agent_socket()),
            cert = quoted(&cert),
            tls_key = quoted(&tls_key),
            ca = quoted(&self.ca_file()),
        );
        text.push_str(&routes());
        let _ = write!(
            text,
            "\n# Registration entries: who there is, and who may launch it. All services of `up` run under one uid, so\n\
             # isolation between them is nominal here; on a real machine each has its own. How they prove themselves is\n\
             # changed by `countersign service mode`; accepts and sends, if written here, are what a new entry begins with.\n\
             [[service]]\nname      = \"{GATEWAY}\"\n\
             spiffe_id = \"spiffe://{trust_domain}/countersign/gateway/edge\"\nlaunch_by = [{uid}]\n"
        );
        for (port, name) in (7091..).zip(SERVICES) {
            let (listen, admin) = (ports.near(port)?, ports.near(port + 100)?);
            let database = quoted_text(&format!(
                "sqlite:{}",
                self.state_dir.join("services").join(name).join(format!("{name}.db")).display()
            ));
            let _ = write!(
                text,
                "\n[[service]]\nname      = \"{name}\"\naddress   = \"{listen}\"\nlaunch_by = [{uid}]\n\n\
                 [demo.services.{name}]\nlisten   = \"{listen}\"\nadmin    = \"{admin}\"\ndatabase = {database}\n"
            );
        }
        Ok(text)
    }
}

/// The edge's routes: what is not listed does not exist outside.
fn routes() -> String {
    let mut text = String::new();
    for (path, to) in countersign_flea_market::EDGE_ROUTES {
        let _ =
            write!(text, "\n[[gateway.route]]\npath = \"{path}\"\nto   = \"{to}\"\nuser = \"required\"\n");
    }
    text
}

fn unusable(state_dir: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::usage(
        format!("{} cannot hold state", state_dir.display()),
        why,
        "name another with --state-dir",
    )
}

/// Where the master key of a state directory lies: beside no backup of it.
///
/// # Errors
/// Exit 2 where there is no home directory.
pub fn master_key_path(state_dir: &Path) -> Result<PathBuf, CliError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base =
        absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config"))).ok_or_else(|| {
            CliError::usage(
                "there is no home directory for the master key",
                "HOME is not set to an absolute path",
                "set HOME or XDG_CONFIG_HOME",
            )
        })?;
    let name: String = sha256_hex(state_dir.as_os_str().as_encoded_bytes()).chars().take(16).collect();
    Ok(base.join("countersign").join(format!("{name}.key")))
}

/// A new master key for a new deployment. An old one is kept: it may seal a database that is only elsewhere.
fn make_master_key(path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| {
            CliError::usage(format!("cannot make {}", dir.display()), e, "set XDG_CONFIG_HOME")
        })?;
    }
    let key = MasterKey::generate(&SystemRandom::new())
        .map_err(|e| CliError::failed("no master key can be made", e, "try again"))?;
    write_private(path, key.to_file_text().expose().as_bytes())
}

fn quoted(path: &Path) -> String {
    quoted_text(&path.display().to_string())
}

/// A TOML basic string.
fn quoted_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_is_one_that_every_role_reads() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let text = layout.first_config("example.org", &mut Ports::default()).unwrap();
        let config = Config::parse(&text, "c").unwrap();
        assert!(config.authority.is_some() && config.agent.is_some() && config.gateway.is_some());
        assert_eq!(config.service.len(), 7);
        assert_eq!(config.demo.unwrap().services.len(), 6);
    }

    #[test]
    fn a_directory_that_holds_other_files_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mode = || std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("letter.txt"), "mine").unwrap();
        assert_eq!(Layout::open(dir.path()).unwrap_err().code(), 2);
        assert!(!Layout::existing(dir.path()).unwrap().is_deployment());
        assert_eq!(mode(), 0o755);
        std::fs::write(dir.path().join(lock::NAME), "").unwrap();
        assert!(Layout::open(dir.path()).unwrap().is_deployment());
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn the_master_key_never_lies_in_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = master_key_path(dir.path()).unwrap();
        assert!(!path.starts_with(dir.path()));
        assert_ne!(path, master_key_path(&dir.path().join("other")).unwrap());
    }

    #[test]
    fn a_path_with_quotes_stays_one_toml_string() {
        let parsed: toml::Table = format!("a = {}", quoted_text("/a\"b\\c\n")).parse().unwrap();
        assert_eq!(parsed["a"].as_str(), Some("/a\"b\\c\n"));
    }
}
