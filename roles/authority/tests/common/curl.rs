//! `curl` as a client that owes us nothing: it shows what it is told to show.

use std::{path::PathBuf, process::Command};

use countersign_keys::KeyPair;
use countersign_pki::pem;
use countersign_testkit::{TempDir, temp_dir};
use countersign_wire::api::certificates::IssuedCertificate;
use http::StatusCode;
use serde_json::Value;

use super::{Running, chain};

/// A certificate and its key in files, and by whom the server is judged.
pub struct Curl {
    dir: TempDir,
    base: String,
    shows: bool,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// As they stood on the wire, names in lower case.
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Curl {
    /// For calls to `server`, by nobody in particular.
    pub async fn stranger(server: &Running) -> Self {
        let dir = temp_dir();
        let roots = server.bundle().await.edge_roots;
        let pem: String = roots.iter().map(|root| pem::encode("CERTIFICATE", &root.0)).collect();
        std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
        Self { dir, base: format!("https://localhost:{}", server.api.port()), shows: false }
    }

    /// For calls to `server`, by whom `issued` names.
    pub async fn showing(server: &Running, key: &KeyPair, issued: &IssuedCertificate) -> Self {
        let curl = Self::stranger(server).await;
        let certificates: String = chain(issued).iter().map(|der| pem::encode("CERTIFICATE", der)).collect();
        std::fs::write(curl.file("cert.pem"), certificates).unwrap();
        let key = pem::encode("PRIVATE KEY", key.to_pkcs8().unwrap().expose());
        std::fs::write(curl.file("key.pem"), key).unwrap();
        Self { shows: true, ..curl }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One call with more arguments of curl's own; `None` if the connection was refused.
    pub async fn call(&self, path: &str, more: &[&str]) -> Option<Reply> {
        let mut command = Command::new("curl");
        command.args(["-sS", "-D", "-", "--max-time", "20", "--cacert"]).arg(self.file("ca.pem"));
        if self.shows {
            command.arg("--cert").arg(self.file("cert.pem")).arg("--key").arg(self.file("key.pem"));
        }
        command.args(more).arg(format!("{}{path}", self.base));
        // The server runs on this very thread.
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        output.status.success().then(|| Reply::read(&String::from_utf8(output.stdout).unwrap()))
    }

    /// A form, as OAuth clients send it.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        self.post_with(path, form, &[]).await
    }

    /// The same with more arguments.
    pub async fn post_with(&self, path: &str, form: &[(&str, &str)], more: &[&str]) -> Reply {
        let fields: Vec<String> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments: Vec<&str> = fields.iter().flat_map(|field| ["--data-urlencode", field]).collect();
        if fields.is_empty() {
            arguments.extend(["-d", ""]);
        }
        arguments.extend(more);
        self.call(path, &arguments).await.expect("the connection was refused")
    }
}

impl Reply {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Self { status, headers: headers.collect(), text: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// `error` of RFC 6749 section 5.2, with the status.
    pub fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().unwrap_or_default().to_owned())
    }
}
