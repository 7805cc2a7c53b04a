//! A deployment that a test started with `up --detach`, and ends with `down` however the test ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_countersign");

/// Two deployments that choose their ports at the same moment could choose the same ones.
static STARTING: Mutex<()> = Mutex::new(());

/// Holds the documented default ports, so that every deployment of a test is given ports of its own: one that is
/// down for a moment must not find its ports taken by another test's.
fn hold_default_ports() {
    static HELD: OnceLock<Vec<std::net::TcpListener>> = OnceLock::new();
    HELD.get_or_init(|| {
        let defaults =
            [7080, 7081, 7441, 7442, 7443, 7444, 7445].into_iter().chain(7091..7097).chain(7191..7197);
        defaults.filter_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok()).collect()
    });
}

/// A running deployment with a home of its own.
pub struct Deployment {
    root: TempDir,
    logins: Mutex<BTreeSet<String>>,
    /// What its processes find in their environment besides.
    environment: Vec<(String, String)>,
    /// The ready line.
    pub ready: Value,
}

impl Deployment {
    /// A new one in a new directory.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A new one of another trust domain.
    pub fn start_as(trust_domain: &str) -> Self {
        Self::start_with(&["--trust-domain", trust_domain])
    }

    /// A new one, with more to say to `up`.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(&[], arguments)
    }

    /// A new one whose processes find these variables in their environment.
    pub fn start_in(environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        hold_default_ports();
        let root = tempfile::Builder::new().prefix("cs").tempdir().unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment = environment.collect();
        let mut new = Self { root, logins: Mutex::default(), environment, ready: Value::Null };
        new.up_with(arguments);
        new
    }

    /// The one that all tests share which change nothing that another test looks at.
    #[expect(clippy::zombie_processes, reason = "the watcher outlives this process on purpose")]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Deployment> = OnceLock::new();
        SHARED.get_or_init(|| {
            let deployment = Self::start();
            // Statics are not dropped: a watcher ends the deployment with this process.
            let (state, pid) = (deployment.state(), std::process::id());
            let home = deployment.home();
            let script = format!(
                "while kill -0 {pid} 2>/dev/null; do sleep 0.2; done; HOME='{}' '{BINARY}' --state-dir '{}' down --purge; rm -rf '{}'",
                home.display(),
                state.display(),
                deployment.root.path().display()
            );
            Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            deployment
        })
    }

    /// `up --detach --json`, again or for the first time; keeps and returns the line.
    pub fn up(&mut self) -> Value {
        self.up_with(&[])
    }

    fn up_with(&mut self, arguments: &[&str]) -> Value {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let out = self.run(&[&["up", "--detach", "--json"], arguments].concat());
        assert!(out.status.success(), "up failed: {}\n{}", text(&out.stderr), self.logs());
        let line = text(&out.stdout);
        assert_eq!(line.trim().lines().count(), 1, "one line of JSON: {line}");
        self.ready = serde_json::from_str(line.trim()).unwrap();
        self.ready.clone()
    }

    pub fn state(&self) -> PathBuf {
        self.root.path().join("s")
    }

    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A URL of the ready line.
    pub fn url(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    /// A command of the binary, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        std::fs::create_dir_all(self.home()).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("--state-dir").arg(self.state()).args(arguments);
        command.env("HOME", self.home()).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// stdout of a command that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert!(out.status.success(), "{arguments:?}: {}\n{}", text(&out.stderr), text(&out.stdout));
        text(&out.stdout)
    }

    /// JSON of a command that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
    }

    /// A file for `curl -K` with the user's token; logs in once, as an application would.
    pub fn curl_config(&self, user: &str) -> String {
        let file = self.state().join(format!("users/{user}.curl"));
        let mut logins = self.logins.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if logins.insert(user.to_owned()) || !file.exists() {
            assert_eq!(self.ok(&["login", user, "--curl-config"]).trim(), file.display().to_string());
        }
        file.display().to_string()
    }

    /// Status and body of a request by curl; `arguments` besides the URL.
    pub fn curl(&self, url: &str, arguments: &[&str]) -> (u16, String) {
        let out = curl(url, arguments);
        let (body, status) = out.1.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// A request to the gateway over HTTPS as `user`.
    pub fn as_user(&self, user: &str, path: &str, arguments: &[&str]) -> (u16, String) {
        let config = self.curl_config(user);
        let ca = self.url("ca_file");
        let base = ["--cacert", ca, "-K", &config];
        self.curl(&format!("{}{path}", self.url("gateway_tls")), &[&base, arguments].concat())
    }

    /// Address of a service's own port.
    pub fn address_of(&self, service: &str) -> String {
        let services = self.json(&["service", "list"]);
        let found = services.as_array().unwrap().iter().find(|s| s["name"] == service).unwrap();
        found["address"].as_str().unwrap().to_owned()
    }

    /// `explain last`, once it is about something after `before`.
    pub fn explain_after(&self, before: Option<&str>) -> Value {
        for _ in 0..60 {
            let out = self.run(&["explain", "last", "-o", "json"]);
            if out.status.success() {
                let found: Value = serde_json::from_slice(&out.stdout).unwrap();
                if before != found["decision"].as_str() {
                    return found;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("no new refusal was recorded within three seconds");
    }

    /// Id of the last refusal, if there was one.
    pub fn last_decision(&self) -> Option<String> {
        let out = self.run(&["explain", "last", "-o", "json"]);
        let found: Value = serde_json::from_slice(&out.stdout).ok()?;
        found["decision"].as_str().map(str::to_owned)
    }

    /// The pid of one process of the deployment, by the words of its command line.
    pub fn pid_of(&self, words: &[&str]) -> i32 {
        let config = self.state().join("countersign.toml").display().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if words.iter().all(|w| line.contains(w)) && line.contains(&config) {
                return pid;
            }
        }
        panic!("no process {words:?}");
    }

    /// Pids of every process of this deployment.
    pub fn pids(&self) -> Vec<i32> {
        let state = self.state().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&state) {
                found.push(pid);
            }
        }
        found
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.state().join("logs")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(8).collect();
            for line in tail.iter().rev() {
                all.push_str(&format!("{}: {line}\n", entry.file_name().to_string_lossy()));
            }
        }
        all
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let _ = self.run(&["down", "--purge"]);
    }
}

/// Exit code of curl, and its output followed by the status on a line of its own.
pub fn curl(url: &str, arguments: &[&str]) -> (i32, String) {
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl is installed by cargo xtask test");
    let mut said = text(&out.stdout);
    if !out.status.success() {
        said = format!("{}{said}", text(&out.stderr));
    }
    (out.status.code().unwrap_or(-1), said)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}
