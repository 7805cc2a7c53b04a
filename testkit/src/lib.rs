//! What the tests of several crates lean on: conformance vectors, the cases of llhttp, free ports, temporary directories,
//! child processes that cannot outlive their test, a PostgreSQL server of our own, an interpreter of Python, Prometheus' tool, and what benchmarks count.
//!
//! Everything here blocks and panics with a sentence on failure: it is test code, and a test that cannot
//! get its ground under its feet has failed.
//!
//! ```no_run
//! let Some(path) = countersign_testkit::vectors("spiffe/spiffe-id-cases.json") else { return };
//! let cases = std::fs::read_to_string(path);
//! ```
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a library of tests: it fails by panicking and tells of skipped tests on stderr"
)]

mod child;
pub mod llhttp;
pub mod measure;
mod postgres;
mod promtool;
mod python;

pub use child::Child;
pub use postgres::{Postgres, dump_postgres};
pub use promtool::promtool;
pub use python::Python;
pub use tempfile::TempDir;

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The file or folder `rel` of the conformance vectors, or `None` (and a line on stderr) where this machine
/// has none.
///
/// They are looked for in `$COUNTERSIGN_VECTORS`, else in `../shared/conformance` beside the workspace.
/// With `COUNTERSIGN_DEMAND_VECTORS=1` absence is a failure.
#[must_use]
pub fn vectors(rel: &str) -> Option<PathBuf> {
    let base = std::env::var_os("COUNTERSIGN_VECTORS")
        .map_or_else(|| workspace_root().join("../shared/conformance"), PathBuf::from);
    let path = base.join(rel);
    if path.exists() {
        return Some(path);
    }
    assert!(
        !demanded("COUNTERSIGN_DEMAND_VECTORS"),
        "conformance vectors are demanded, but {} does not exist: set COUNTERSIGN_VECTORS",
        path.display()
    );
    eprintln!("skipped: no conformance vectors at {}", path.display());
    None
}

/// The NGINX of this machine, or `None` (and a line on stderr) where there is none.
///
/// With `COUNTERSIGN_DEMAND_NGINX=1` absence is a failure.
#[must_use]
pub fn nginx() -> Option<PathBuf> {
    installed("/usr/sbin/nginx", "COUNTERSIGN_DEMAND_NGINX")
}

/// ModSecurity for that NGINX, and the OWASP core rule set.
#[must_use]
pub fn modsecurity() -> Option<PathBuf> {
    installed("/usr/share/modsecurity-crs/owasp-crs.load", "COUNTERSIGN_DEMAND_NGINX")?;
    installed("/usr/lib/nginx/modules/ngx_http_modsecurity_module.so", "COUNTERSIGN_DEMAND_NGINX")
}

/// The Redis server of this machine, or `None` (and a line on stderr) where there is none.
///
/// With `COUNTERSIGN_DEMAND_REDIS=1` absence is a failure.
#[must_use]
pub fn redis_server() -> Option<PathBuf> {
    installed("/usr/bin/redis-server", "COUNTERSIGN_DEMAND_REDIS")
}

/// The load generator of the experiment, or `None` (and a line on stderr) where there is none.
///
/// With `COUNTERSIGN_DEMAND_WRK=1` absence is a failure.
#[must_use]
pub fn wrk() -> Option<PathBuf> {
    installed("/usr/bin/wrk", "COUNTERSIGN_DEMAND_WRK")
}

/// The ACME server for tests that Let's Encrypt makes, or `None` (and a line on stderr) where there is none.
///
/// With `COUNTERSIGN_DEMAND_PEBBLE=1` absence is a failure.
#[must_use]
pub fn pebble() -> Option<PathBuf> {
    installed("/usr/bin/pebble", "COUNTERSIGN_DEMAND_PEBBLE")
}

fn installed(path: &str, variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    if path.exists() {
        return Some(path);
    }
    assert!(!demanded(variable), "{} is demanded, and is not there", path.display());
    eprintln!("skipped: there is no {}", path.display());
    None
}

/// The folder of the root `Cargo.toml`.
#[must_use]
pub fn workspace_root() -> PathBuf {
    // What cargo says now comes first: the clone may have moved since this crate was compiled.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = here.ancestors().find(|folder| folder.join("Cargo.lock").exists());
    root.map_or_else(|| here.clone(), Path::to_path_buf)
}

/// A TCP port of the loopback address that nobody listened on a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Below the ports that the kernel gives to outgoing connections: one of those could take it before it is bound.
    let first = std::process::id().wrapping_mul(97);
    for _ in 0..FREE_PORTS {
        let offset = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % FREE_PORTS;
        let port = FIRST_FREE_PORT + u16::try_from(offset).unwrap_or_default();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("the loopback address has no free port from {FIRST_FREE_PORT} on");
}

const FIRST_FREE_PORT: u16 = 10_000;
const FREE_PORTS: u32 = 10_000;

/// A new empty directory, 0700, removed when dropped.
#[must_use]
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("countersign-test-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .expect("the temporary directory must be writable")
}

fn demanded(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn finds_the_workspace_by_its_manifest() {
        assert!(workspace_root().join("Cargo.lock").exists());
    }

    #[test]
    fn names_no_vector_that_does_not_exist() {
        if demanded("COUNTERSIGN_DEMAND_VECTORS") {
            return;
        }
        assert_eq!(vectors("no/such/file.json"), None);
    }

    #[test]
    fn a_free_port_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    }

    #[test]
    fn a_temporary_directory_is_private_and_goes_away() {
        let dir = temp_dir();
        let path = dir.path().to_path_buf();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(dir);
        assert!(!path.exists());
    }
}
