//! Who terminates TLS: one line of `check` for each port of the deployment. A service that does its own TLS is past the
//! door, whatever its certificate says.

use std::net::SocketAddr;
use std::path::Path;

use countersign_identity::SpiffeId;
use countersign_pki::{Bundle, BundleSet, CertificateDer, CrlPolicy, Expectation, Usage, verify_peer};
use countersign_sdk::clock;
use countersign_wire::api::certificates::Bundle as PublishedBundle;
use countersign_wire::api::check::{CheckLevel, CheckLine};
use countersign_wire::api::services::Service;
use futures::{StreamExt as _, stream};

use super::presented::{Presented, Silent, presented};
use super::serve::sidecar_file;
use crate::config::Config;

/// Our own ports, by the settings on this machine, and those at which services are registered, by what they present.
pub(super) async fn checks(
    state_dir: &Path,
    config: Option<&Config>,
    services: &[Service],
    bundle: &PublishedBundle,
) -> Vec<CheckLine> {
    let mut found = config.map(own).unwrap_or_default();
    let Some(bundles) = bundles(bundle) else { return found };
    let look = async |service: &Service| {
        let here = config.and_then(|config| by_settings(state_dir, config, service));
        judge(service, &at(&service.address, &service.spiffe_id, &bundles).await, here)
    };
    let anywhere = services.iter().filter(|service| !service.address.is_empty());
    // An address that swallows what is sent there holds up nobody but its neighbours.
    let looks: Vec<CheckLine> = stream::iter(anywhere.map(look)).buffered(LOOKS_AT_ONCE).collect().await;
    found.extend(looks);
    found
}

/// What answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answers {
    /// TLS with the SVID of whoever is registered there.
    Expected,
    /// TLS with another certificate, or without the key of the one that it presents.
    Other(String),
    /// Something that speaks no TLS.
    Plain(String),
    /// Something that takes connections.
    Mute(String),
    /// Nobody.
    Nobody(String),
}

async fn at(address: &str, expected: &SpiffeId, bundles: &BundleSet) -> Answers {
    let Presented { chain, broke } = match presented(address).await {
        Ok(presented) => presented,
        Err(Silent::Unreachable(why)) => return Answers::Nobody(why),
        Err(mute @ Silent::Mute) => return Answers::Mute(mute.to_string()),
        Err(Silent::Other(why)) => return Answers::Plain(why),
    };
    if let Some(why) = broke {
        return Answers::Other(why);
    }
    let (now, expected) = (clock::now(), Expectation::Exactly(expected));
    match verify_peer(&chain, bundles, now, Usage::Server, expected, CrlPolicy::AcceptMissing).outcome {
        Ok(_) => Answers::Expected,
        Err(why) => Answers::Other(why.to_string()),
    }
}

/// What terminates there, where the settings on this machine say so.
fn by_settings(state_dir: &Path, config: &Config, service: &Service) -> Option<&'static str> {
    let is_in_front = |config: &Config| {
        config.sidecar.as_ref().and_then(|sidecar| sidecar.inbound).is_some_and(|at| is_at(service, at))
    };
    if is_in_front(config) {
        return Some("the sidecar of [sidecar]");
    }
    let demo = config.demo.as_ref()?.services.get(service.name.as_str())?;
    if !is_at(service, demo.listen) {
        return None;
    }
    // `up --sidecar` writes one for each service, and `up` without it removes them.
    let of_demo = Config::read(&sidecar_file(state_dir, service.name.as_str()));
    Some(if of_demo.is_ok_and(|config| is_in_front(&config)) {
        "its sidecar"
    } else {
        "the SDK, in the service itself"
    })
}

fn is_at(service: &Service, address: SocketAddr) -> bool {
    service.address.parse() == Ok(address)
}

fn judge(service: &Service, answers: &Answers, here: Option<&str>) -> CheckLine {
    let (name, address) = (format!("tls.{}", service.name), &service.address);
    let told = |result, detail: String, fix: Option<&str>| CheckLine {
        name: name.clone(),
        result,
        detail,
        fix: fix.map(str::to_owned),
    };
    match answers {
        Answers::Expected => {
            let who = here.unwrap_or("SDK or sidecar, by the SVID that it presents");
            told(CheckLevel::Pass, format!("{address} is terminated by {who}"), None)
        }
        Answers::Other(why) => told(
            CheckLevel::Fail,
            format!("{address} terminates TLS of its own: {why}"),
            Some("let a sidecar terminate it: docs/sidecar.md"),
        ),
        Answers::Plain(why) if service.accepts.contains(&countersign_identity::Mode::None) => {
            told(CheckLevel::Warn, format!("{address} answers without TLS: {why}"), Some("leave mode none"))
        }
        Answers::Plain(why) => told(
            CheckLevel::Fail,
            format!("{address} answers, and not in TLS: {why}"),
            Some("start the service with its SDK or sidecar; see who listens there"),
        ),
        Answers::Mute(why) => told(
            CheckLevel::Fail,
            format!("{address} takes connections and answers nothing: {why}"),
            Some("see what its program does; read its log"),
        ),
        Answers::Nobody(why) => told(
            CheckLevel::Warn,
            format!("nobody answers at {address}: {why}"),
            Some("start the service, or correct its address: countersign service list"),
        ),
    }
}

/// Ports of this file's own roles, all of which terminate TLS in this binary.
fn own(config: &Config) -> Vec<CheckLine> {
    let mut ports = Vec::new();
    if let Some(authority) = &config.authority {
        ports.push(("authority", "listen", authority.listen));
        ports.push(("authority", "node_listen", authority.node_listen));
    }
    if let Some(gateway) = &config.gateway {
        ports.extend(gateway.listen_tls.map(|address| ("gateway", "listen_tls", address)));
        ports.extend(gateway.asks.iter().map(|ask| ("gateway", "ask", ask.listen)));
        ports.extend(gateway.fronts.iter().map(|front| ("gateway", "front", front.listen)));
    }
    if let Some(sidecar) = &config.sidecar {
        ports.extend(sidecar.inbound.map(|address| ("sidecar", "inbound", address)));
    }
    let line = |(role, setting, address)| CheckLine {
        name: format!("tls.{role}.{setting}"),
        result: CheckLevel::Pass,
        detail: format!("{address} is terminated by the {role}"),
        fix: None,
    };
    ports.into_iter().map(line).collect()
}

fn bundles(published: &PublishedBundle) -> Option<BundleSet> {
    let roots = published.roots.iter().map(|der| CertificateDer::from(der.as_slice().to_vec())).collect();
    let bundle = Bundle::new(published.trust_domain.clone(), roots, Vec::new()).ok()?;
    Some(BundleSet::from_iter([bundle]))
}

const LOOKS_AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use countersign_identity::{Mode, ServiceName, TrustDomain};
    use countersign_keys::{KeyPair, SystemRandom, random_bytes};
    use countersign_pki::csr::{self, Csr};
    use countersign_pki::issue::{Issuer, Root, issue_workload, make_issuing, make_root};
    use countersign_pki::profile::LeafTtl;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn ca(td: &TrustDomain) -> (Issuer, Issuer) {
        let (rng, now) = (SystemRandom::new(), clock::now());
        let key = || KeyPair::generate(&rng).unwrap();
        let root = make_root(Root::Workload, td, key(), now, random_bytes(&rng).unwrap()).unwrap();
        let issuing = make_issuing(&root, td, key(), now, random_bytes(&rng).unwrap()).unwrap();
        (root, issuing)
    }

    /// A server that terminates TLS by itself, with this name below this CA; its address.
    async fn server(issuing: &Issuer, id: &str) -> String {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        serve(chain(issuing, id, &key), &key).await
    }

    /// A server that has the certificate of another, and not its key.
    async fn thief(issuing: &Issuer, id: &str) -> String {
        let rng = SystemRandom::new();
        let (stolen, own) = (KeyPair::generate(&rng).unwrap(), KeyPair::generate(&rng).unwrap());
        serve(chain(issuing, id, &stolen), &own).await
    }

    fn chain(issuing: &Issuer, id: &str, key: &KeyPair) -> Vec<CertificateDer<'static>> {
        let (rng, id) = (SystemRandom::new(), SpiffeId::parse(id).unwrap());
        let csr = Csr::parse(&csr::make(key, Some(&id)).unwrap()).unwrap();
        let ttl = LeafTtl::new(Duration::from_secs(3600)).unwrap();
        let leaf =
            issue_workload(issuing, &csr, &id, ttl, clock::now(), random_bytes(&rng).unwrap()).unwrap();
        vec![leaf.der, CertificateDer::from(issuing.certificate().to_vec())]
    }

    async fn serve(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> String {
        let key = PrivateKeyDer::Pkcs8(key.to_pkcs8().unwrap().expose().to_vec().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let presents = CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let resolver = Arc::new(SingleCertAndKey::from(presents));
        let acceptor = TlsAcceptor::from(Arc::new(config.with_cert_resolver(resolver)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move { drop(acceptor.accept(stream).await) });
            }
        });
        address
    }

    /// One that hangs up.
    async fn plain() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                drop(listener.accept().await.unwrap());
            }
        });
        address
    }

    fn service(address: String, accepts: Mode) -> Service {
        Service {
            name: ServiceName::parse("ads").unwrap(),
            spiffe_id: SpiffeId::parse("spiffe://shop.test/svc/ads").unwrap(),
            address,
            accepts: vec![accepts],
            sends: Mode::Mtls,
            user_context: Default::default(),
            wimse: Default::default(),
            lowered_until: None,
        }
    }

    #[tokio::test]
    async fn a_service_that_does_its_own_tls_is_told_from_one_behind_our_door() {
        let td = TrustDomain::parse("shop.test").unwrap();
        let ((root, issuing), (_, foreign)) = (ca(&td), ca(&td));
        let published = PublishedBundle {
            trust_domain: td,
            roots: vec![root.certificate().to_vec().into()],
            crls: Vec::new(),
            edge_roots: Vec::new(),
        };
        let own = "spiffe://shop.test/svc/ads";
        let closed = std::net::SocketAddr::from(([127, 0, 0, 1], countersign_testkit::free_port()));
        for (address, accepts, result, says) in [
            (server(&issuing, own).await, Mode::Mtls, CheckLevel::Pass, "by SDK or sidecar"),
            (server(&foreign, own).await, Mode::Mtls, CheckLevel::Fail, "terminates TLS of its own"),
            (
                server(&issuing, "spiffe://shop.test/svc/chat").await,
                Mode::Mtls,
                CheckLevel::Fail,
                "of its own",
            ),
            (thief(&issuing, own).await, Mode::Mtls, CheckLevel::Fail, "of its own"),
            (plain().await, Mode::Mtls, CheckLevel::Fail, "not in TLS"),
            (plain().await, Mode::None, CheckLevel::Warn, "without TLS"),
            (closed.to_string(), Mode::Mtls, CheckLevel::Warn, "nobody answers"),
        ] {
            let found =
                checks(Path::new("/nowhere"), None, &[service(address.clone(), accepts)], &published).await;
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].name.as_str(), found[0].result), ("tls.ads", result), "{found:?}");
            assert!(found[0].detail.contains(&address) && found[0].detail.contains(says), "{found:?}");
            assert_eq!(found[0].fix.is_none(), result == CheckLevel::Pass);
        }
    }

    #[test]
    fn a_service_that_takes_connections_and_answers_nothing_fails_the_check() {
        let service = service("127.0.0.1:7091".to_owned(), Mode::Mtls);
        let line = judge(&service, &Answers::Mute("nothing was said".into()), Some("its sidecar"));
        assert_eq!(line.result, CheckLevel::Fail);
        assert!(line.detail.ends_with("answers nothing: nothing was said") && line.fix.is_some(), "{line:?}");
    }

    #[test]
    fn every_port_of_our_own_roles_is_listed_with_who_terminates_tls_there() {
        let text = "[gateway]\nlisten = \"127.0.0.1:8080\"\nlisten_tls = \"127.0.0.1:8443\"\n\
            [[gateway.front]]\nlisten = \"127.0.0.1:9445\"\nproxies = [\"spiffe://shop.test/svc/waf\"]\n\
            [sidecar]\nservice = \"ads\"\ninbound = \"127.0.0.1:7091\"\n";
        let config = Config::parse(text, "countersign.toml").unwrap();
        let names: Vec<_> = own(&config).into_iter().map(|line| line.name).collect();
        assert_eq!(names, ["tls.gateway.listen_tls", "tls.gateway.front", "tls.sidecar.inbound"]);
    }

    #[test]
    fn a_service_is_behind_a_sidecar_where_a_configuration_puts_one_at_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let (here, elsewhere) = ("127.0.0.1:7091", "127.0.0.1:7999");
        let sidecar = |at: &str| format!("[sidecar]\nservice = \"ads\"\ninbound = \"{at}\"\n");
        let says = |text: &str, address: &str| {
            let config = Config::parse(text, "countersign.toml").unwrap();
            by_settings(dir.path(), &config, &service(address.into(), Mode::Mtls))
        };
        assert_eq!(says(&sidecar(here), here), Some("the sidecar of [sidecar]"));
        assert_eq!(says(&sidecar(elsewhere), here), None, "that one is in front of something else");
        let demo = format!(
            "[demo.services.ads]\nlisten = \"{here}\"\nadmin = \"127.0.0.1:7191\"\ndatabase = \"sqlite:a\"\n"
        );
        assert_eq!(says(&demo, here), Some("the SDK, in the service itself"));
        assert_eq!(says(&demo, elsewhere), None);
        std::fs::create_dir(dir.path().join("sidecars")).unwrap();
        std::fs::write(sidecar_file(dir.path(), "ads"), sidecar(here)).unwrap();
        assert_eq!(says(&demo, here), Some("its sidecar"));
        std::fs::write(sidecar_file(dir.path(), "ads"), sidecar(elsewhere)).unwrap();
        assert_eq!(says(&demo, here), Some("the SDK, in the service itself"));
    }
}
