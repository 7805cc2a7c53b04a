//! # Certificates that are there already are enough: a proxy without agent and authority

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::deployment::{BINARY, curl, text};
use crate::world::wait_for;

/// A sidecar before a backend, and a gateway before the sidecar; each has a certificate that openssl made.
struct Standalone {
    dir: TempDir,
    processes: Vec<Child>,
    gateway: u16,
    sidecar: u16,
}

impl Standalone {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("cs").tempdir().unwrap();
        make_certificates(dir.path());
        let policies = dir.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        let rule = |who: &str| format!("@id(\"in\") permit (principal == {who}, action, resource);");
        std::fs::write(policies.join("server.cedar"), rule("Workload::\"spiffe://mesh.test/client\""))
            .unwrap();
        std::fs::write(policies.join("gateway.cedar"), rule("Stranger::\"stranger\"")).unwrap();
        let (gateway, sidecar, backend) = (free_port(), free_port(), backend());
        let at = |file: &str| dir.path().join(file).display().to_string();
        let identity = |name: &str| {
            format!(
                "state_dir = \"{}\"\n[identity]\ncert = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n[policy]\ndir = \"{}\"\n",
                at(&format!("state-{name}")),
                at(&format!("{name}.pem")),
                at(&format!("{name}.key")),
                at("ca.pem"),
                at("policies"),
            )
        };
        let server = format!(
            "{}[sidecar]\nservice = \"server\"\ninbound = \"127.0.0.1:{sidecar}\"\napp_on_loopback_port_insecure = \"127.0.0.1:{backend}\"\n",
            identity("server")
        );
        let client = identity("client").replace("[policy]", "name = \"gateway\"\n[policy]");
        let client = format!(
            "{client}[gateway]\nlisten = \"127.0.0.1:{gateway}\"\n[[gateway.route]]\npath = \"/*\"\nto = \"backend\"\nuser = \"none\"\n\
             [[gateway.upstream]]\nname = \"backend\"\nendpoints = [\"127.0.0.1:{sidecar}\"]\ntls = {{ expect = \"spiffe://mesh.test/server\" }}\n"
        );
        std::fs::write(at("server.toml"), server).unwrap();
        std::fs::write(at("client.toml"), client).unwrap();
        let processes = vec![
            serve("sidecar", &dir.path().join("server.toml")),
            serve("gateway", &dir.path().join("client.toml")),
        ];
        Self { dir, processes, gateway, sidecar }
    }

    fn as_(&self, who: &str) -> (i32, String) {
        let url = format!("https://127.0.0.1:{}/hello", self.sidecar);
        let at = |file: String| self.dir.path().join(file).display().to_string();
        curl(&url, &["-k", "--cert", &at(format!("{who}.pem")), "--key", &at(format!("{who}.key"))])
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_pair_of_proxies_with_certificates_from_elsewhere_needs_no_agent_and_no_authority() {
    let pair = Standalone::start();
    let through = wait_for(|| {
        let (code, said) = curl(&format!("http://127.0.0.1:{}/hello", pair.gateway), &["-f"]);
        (code == 0).then_some(said)
    });
    assert_eq!(through.as_deref(), Some("hello from behind\n200"));
    // Whom the policy names gets in, whom it does not is refused, and a stranger does not get through the handshake.
    assert_eq!(pair.as_("client"), (0, "hello from behind\n200".to_owned()));
    assert!(pair.as_("server").1.contains("access_denied"), "{:?}", pair.as_("server"));
    assert_ne!(pair.as_("rogue").0, 0);
    assert_ne!(curl(&format!("https://127.0.0.1:{}/hello", pair.sidecar), &["-k"]).0, 0);
}

#[test]
fn files_that_make_no_identity_are_refused_with_exit_2_and_their_names() {
    let dir = tempfile::Builder::new().prefix("cs").tempdir().unwrap();
    make_certificates(dir.path());
    let at = |file: &str| dir.path().join(file).display().to_string();
    let config = |key: &str| {
        format!(
            "state_dir = \"{}\"\n[identity]\ncert = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n[sidecar]\nservice = \"x\"\noutbound = \"unix:{}\"\n",
            at("state"),
            at("server.pem"),
            at(key),
            at("ca.pem"),
            at("out.sock")
        )
    };
    for wrong in ["client.key", "nothing.key"] {
        std::fs::write(dir.path().join("c.toml"), config(wrong)).unwrap();
        let out =
            Command::new(BINARY).args(["serve", "sidecar", "--config", &at("c.toml")]).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{wrong}");
        assert!(text(&out.stderr).contains(wrong), "{}", text(&out.stderr));
    }
}

fn serve(role: &str, config: &Path) -> Child {
    let log = std::fs::File::create(config.with_extension("log")).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["serve", role, "--config"]).arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Answers every request alike; ends with the test's process.
fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut head = [0_u8; 4096];
                while stream.read(&mut head).is_ok_and(|read| read > 0) {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nhello from behind";
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn free_port() -> u16 {
    countersign_testkit::free_port()
}

fn make_certificates(dir: &Path) {
    let openssl = |words: &[&str]| {
        let out = Command::new("openssl").current_dir(dir).args(words).output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
    };
    let key = |name: &str| {
        let file = format!("{name}.key");
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &file]);
        file
    };
    let ca = key("ca");
    let usage =
        ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    openssl(
        &[
            &["req", "-x509", "-new", "-key", &ca, "-days", "2", "-subj", "/CN=a CA", "-out", "ca.pem"],
            &usage[..],
        ]
        .concat(),
    );
    for name in ["server", "client"] {
        let file = key(name);
        let (csr, pem, extensions) = (format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        let said = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:spiffe://mesh.test/{name}\n"
        );
        std::fs::write(dir.join(&extensions), said).unwrap();
        openssl(&["req", "-new", "-key", &file, "-subj", "/CN=x", "-out", &csr]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            &extensions,
            "-out",
            &pem,
        ]);
    }
    let rogue = key("rogue");
    let san = "subjectAltName=URI:spiffe://mesh.test/client";
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &rogue,
        "-days",
        "2",
        "-subj",
        "/CN=rogue",
        "-addext",
        san,
        "-out",
        "rogue.pem",
    ]);
}

#[test]
fn config_says_where_each_value_was_said_and_where_a_file_is_wrong() {
    let dir = tempfile::Builder::new().prefix("cs").tempdir().unwrap();
    let file = dir.path().join("countersign.toml");
    let more = dir.path().join("conf.d/more.toml");
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    std::fs::write(&file, "[gateway]\nlisten = \"127.0.0.1:1\"\n").unwrap();
    let countersign = |words: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["config"]).args(words).arg("--config").arg(&file);
        let out = command.env("COUNTERSIGN_GATEWAY__ADMIN", "127.0.0.1:3").output().unwrap();
        (out.status.code(), format!("{}{}", text(&out.stdout), text(&out.stderr)))
    };
    std::fs::write(&more, "[gateway]\nlisten = \"127.0.0.1:2\"\n").unwrap();
    assert_eq!(countersign(&["check"]).0, Some(0));
    let (code, said) = countersign(&["show", "--origin"]);
    assert_eq!(code, Some(0));
    let line = |key: &str| said.lines().find(|line| line.contains(key)).unwrap().to_owned();
    assert!(
        line("gateway.listen").contains("127.0.0.1:2") && line("gateway.listen").contains("more.toml:2:1")
    );
    assert!(line("gateway.admin").contains("$COUNTERSIGN_GATEWAY__ADMIN"), "{said}");
    for (wrong, place, hint) in [
        ("[gateway]\nlisten = 7\n", "more.toml:2:1", "gateway.listen"),
        ("\n[gateway]\nlistne = \"127.0.0.1:2\"\n", "more.toml:3:1", "did you mean `listen`?"),
        (
            "[[gateway.route]]\npath = \"/a\"\nto = \"a\"\n[[gateway.route]]\npth = \"/b\"\n",
            "more.toml:5:1",
            "did you mean `path`?",
        ),
        ("[gateway\n", "more.toml:1:", "TOML"),
    ] {
        std::fs::write(&more, wrong).unwrap();
        let (code, said) = countersign(&["check"]);
        assert_eq!(code, Some(2), "{wrong}: {said}");
        assert!(said.contains(place) && said.contains(hint), "{wrong}: {said}");
    }
}

#[test]
fn a_hangup_reloads_the_configuration_without_a_failed_request_and_a_bad_file_keeps_the_old_one() {
    let pair = Standalone::start();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", pair.gateway);
    assert!(wait_for(|| (curl(&url("/hello"), &["-f"]).0 == 0).then_some(())).is_some());
    let (file, log) = (pair.dir.path().join("client.toml"), pair.dir.path().join("client.log"));
    let good = std::fs::read_to_string(&file).unwrap();
    let hang_up = || {
        let pid = pair.processes[1].id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    let said = |words: &str| std::fs::read_to_string(&log).unwrap().matches(words).count();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let (code, said) = curl(&url("/hello"), &["-f"]);
                if code != 0 {
                    over.store(true, Ordering::Relaxed);
                    panic!("a request failed during reloads: {said}");
                }
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        for number in 1..=5 {
            let more =
                format!("[[gateway.route]]\npath = \"/more{number}\"\nto = \"backend\"\nuser = \"none\"\n");
            std::fs::write(&file, format!("{good}{more}")).unwrap();
            hang_up();
            let before = served.load(Ordering::Relaxed);
            let reloaded = || said("is in force") == number && served.load(Ordering::Relaxed) > before + 2;
            assert!(wait_for(|| reloaded().then_some(())).is_some(), "reload {number}");
        }
        std::fs::write(&file, format!("{good}[[gateway.route]]\npth = \"/x\"\n")).unwrap();
        hang_up();
        assert!(wait_for(|| (said("the old one stays in force") == 1).then_some(())).is_some());
        over.store(true, Ordering::Relaxed);
    });
    let place = format!("client.toml:{}:1", good.matches('\n').count() + 2);
    assert_eq!(said(&place), 1, "{place} in {}", std::fs::read_to_string(&log).unwrap());
    assert_eq!(curl(&url("/hello"), &["-f"]).0, 0);
}
