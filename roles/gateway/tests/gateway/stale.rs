//! The authority is not heard, and with it who is revoked: what then, each service says by name (T42).

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use countersign_gateway::sidecar::{Settings as SidecarSettings, Sidecar};
use countersign_identity::SpiffeId;
use countersign_pki::revocation::make_crl;
use countersign_sdk::clock;
use countersign_sdk::live::{Staleness, WhenStale};
use countersign_sdk::workload::Workload;
use countersign_wire::Base64;

use crate::rig::backend::Backend;
use crate::rig::client::get;
use crate::rig::{Rig, eventually, settings};
use crate::sidecar_http1::{ask, caller};

const EVERYBODY: &str = "@id(\"all\") permit (principal, action, resource);";
const REFUSE: &str = "[revocation]\nwhen_stale = \"refuse\"\n";
const GRACE: &str = "[revocation]\ngrace_s = 60\n";
const ACCEPT: &str = "[revocation]\nwhen_stale = \"accept_insecure\"\n";

impl Rig {
    /// From now on the last word of the authority is this long past its end: nothing newer comes.
    fn unheard_for(&self, span: Duration) {
        self.world.change(|snapshot| snapshot.valid_until = clock::now().saturating_sub(span));
    }

    /// The revocation list of the issuing CA is past its nextUpdate.
    fn let_the_list_expire(&self) {
        let now = clock::now();
        let (made, until) =
            (now.saturating_sub(Duration::from_secs(7200)), now.saturating_sub(Duration::from_secs(3600)));
        let list = make_crl(&self.world.issuing, 2, &[], made, until).unwrap();
        self.world.change(|snapshot| snapshot.bundles[0].crls = vec![Base64::from(list)]);
    }
}

#[tokio::test]
async fn a_gateway_that_hears_no_authority_refuses_waits_or_goes_on_as_its_settings_say() {
    for (table, fresh, after_5_s, after_5_min) in
        [(REFUSE, 200, 503, 503), (GRACE, 200, 200, 503), (ACCEPT, 200, 200, 200)]
    {
        let rig = Rig::new();
        rig.policy("gateway", EVERYBODY);
        let backend = Backend::named("backend").await;
        let toml = format!(
            "{table}[[route]]\npath = \"/*\"\nto = \"backend\"\nuser = \"none\"\n\
             [[upstream]]\nname = \"backend\"\nendpoints = [\"{}\"]\n",
            backend.address
        );
        let staleness = settings(&toml).revocation;
        let id = SpiffeId::gateway(&rig.td, "edge").unwrap();
        let workload = rig.workload_growing_old(id, staleness).await;
        let gateway = rig.gateway_of(workload.clone(), &toml).await;
        let ask = async || get(gateway.plain, "/", &[]).await.status;
        assert_eq!(ask().await, fresh, "{table}");
        for (span, status) in [(5, after_5_s), (300, after_5_min)] {
            let before = rig.world.sequence();
            rig.unheard_for(Duration::from_secs(span));
            eventually(|| workload.live().snapshot().sequence > before).await;
            assert_eq!(ask().await, status, "{table} after {span} s");
            assert!(workload.ready().is_err(), "whatever goes on, readiness says so");
        }
    }
}

/// `users` behind a sidecar that says so much of news.
async fn behind(rig: &Rig, table: &str) -> (Backend, Workload, SocketAddr) {
    let app = rig.dir.path().join("app.sock");
    let backend = Backend::on_socket(&app, "users").await;
    std::fs::set_permissions(&app, std::fs::Permissions::from_mode(0o600)).unwrap();
    rig.policy("users", EVERYBODY);
    let text = format!(
        "service = \"users\"\ninbound = \"127.0.0.1:0\"\nworkers = 1\napp = \"unix:{}\"\nroutes = [\"/*\"]\n{table}",
        app.display()
    );
    let settings: SidecarSettings = toml::from_str(&text).unwrap();
    let id = SpiffeId::service(&rig.td, "users").unwrap();
    let workload = rig.workload_growing_old(id, settings.revocation).await;
    let sidecar = Sidecar::bind(settings, workload.clone(), Arc::new(String::new)).await.unwrap();
    let address = sidecar.address().unwrap();
    rig.register("users", address);
    tokio::spawn(sidecar.run(rig.shutdown.clone()));
    (backend, workload, address)
}

/// A caller that does not care: what is judged is the sidecar.
async fn careless(rig: &Rig) -> Workload {
    let careless = Staleness { when_stale: WhenStale::AcceptInsecure, ..Staleness::default() };
    let ads = rig.workload_growing_old(SpiffeId::service(&rig.td, "ads").unwrap(), careless).await;
    eventually(|| ads.live().service("users").is_some()).await;
    ads
}

#[tokio::test]
async fn a_sidecar_that_hears_no_authority_lets_nobody_in_by_either_carrier() {
    for (table, status) in [(REFUSE, 503), (ACCEPT, 200)] {
        let rig = Rig::new();
        let (_backend, workload, address) = behind(&rig, table).await;
        let ads = careless(&rig).await;
        let by_http_2 = async || ads.client("users").get("/users/7").send().await.unwrap().status().as_u16();
        let (_chat, mut line) = caller(&rig, "chat", address).await;
        for _ in 0..2 {
            assert_eq!((by_http_2().await, ask(&mut line, &[]).await.status), (200, 200));
        }
        let before = rig.world.sequence();
        rig.unheard_for(Duration::from_secs(5));
        eventually(|| [&workload, &ads].iter().all(|w| w.live().snapshot().sequence > before)).await;
        assert_eq!((by_http_2().await, ask(&mut line, &[]).await.status), (status, status), "{table}");
    }
}

#[tokio::test]
async fn a_sidecar_believes_a_certificate_without_a_current_list_only_where_its_settings_say_so() {
    for (table, believed) in [(REFUSE, false), (GRACE, false), ("", false), (ACCEPT, true)] {
        let rig = Rig::new();
        let (backend, workload, _) = behind(&rig, table).await;
        let ads = careless(&rig).await;
        rig.let_the_list_expire();
        let newest = rig.world.sequence();
        eventually(|| [&workload, &ads].iter().all(|w| w.live().snapshot().sequence == newest)).await;
        let answer = ads.client("users").get("/users/7").send().await;
        assert_eq!(answer.is_ok_and(|answer| answer.status() == 200), believed, "{table}");
        assert_eq!(backend.seen.lock().unwrap().len(), usize::from(believed));
    }
}
