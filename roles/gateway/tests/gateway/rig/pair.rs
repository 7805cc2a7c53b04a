//! Two services behind their sidecars: `ads` calls `users`, and neither knows more than two Unix sockets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_gateway::sidecar::{Settings, Sidecar};
use countersign_identity::SpiffeId;
use countersign_sdk::workload::Workload;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{Rig, eventually};

/// The pair, and what is around it.
pub struct Pair {
    pub rig: Rig,
    /// Where `ads` sends its calls.
    pub out: PathBuf,
    pub users: Workload,
    pub ads: Workload,
    /// Ends the sidecar of `users`.
    pub stop: CancellationToken,
}

pub const EVERYBODY: &str = "@id(\"all\") permit (principal, action, resource);";

impl Pair {
    /// `callee` and `caller` are further settings of the two sidecars. `users` is to be served on the listener.
    pub async fn new(callee: &str, caller: &str) -> (Self, UnixListener) {
        let rig = Rig::new();
        let (app, out) = (rig.dir.path().join("users.sock"), rig.dir.path().join("ads.sock"));
        let listener = private(&app);
        rig.policy("users", EVERYBODY);
        rig.policy("gateway", EVERYBODY);
        let users = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
        let text = format!(
            "service = \"users\"\nworkers = 2\ninbound = \"127.0.0.1:0\"\napp = \"unix:{}\"\n{callee}",
            app.display()
        );
        let sidecar = bind(&text, &users).await;
        rig.register("users", sidecar.address().unwrap());
        let stop = rig.shutdown.child_token();
        tokio::spawn(sidecar.run(stop.clone()));
        let ads = rig.workload(SpiffeId::service(&rig.td, "ads").unwrap()).await;
        eventually(|| ads.live().service("users").is_some()).await;
        let text = format!("service = \"ads\"\nworkers = 2\noutbound = \"unix:{}\"\n{caller}", out.display());
        tokio::spawn(bind(&text, &ads).await.run(rig.shutdown.clone()));
        (Self { rig, out, users, ads, stop }, listener)
    }

    /// As `ads` connects to its sidecar.
    pub async fn call(&self) -> UnixStream {
        UnixStream::connect(&self.out).await.unwrap()
    }
}

/// A socket that only its owner can open.
pub fn private(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    listener
}

async fn bind(settings: &str, workload: &Workload) -> Sidecar {
    let settings: Settings = toml::from_str(settings).unwrap();
    Sidecar::bind(settings, workload.clone(), Arc::new(String::new)).await.unwrap()
}
