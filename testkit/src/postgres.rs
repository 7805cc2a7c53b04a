//! A PostgreSQL server of our own: Debian's binaries, a fresh cluster, a free port, gone with the test binary.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{demanded, free_port};

/// The port may be taken between choosing it and binding it.
const START_ATTEMPTS_MAX: u32 = 4;

/// A running server that listens on the loopback address and on a socket in its own directory, with trust
/// authentication and the superuser `postgres`. It is stopped when dropped or when our process ends, however
/// it ends: a shell holds the server and waits for the end of a pipe that only we keep open.
#[derive(Debug)]
pub struct Postgres {
    keeper: std::process::Child,
    binaries: PathBuf,
    directory: PathBuf,
    port: u16,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server without fsync (tests are quicker, and a killed process loses nothing that the kernel has).
    /// `None`, and a line on stderr, where PostgreSQL is not installed; a failure when
    /// `COUNTERSIGN_DEMAND_POSTGRES=1`.
    #[must_use]
    pub fn start() -> Option<Postgres> {
        Postgres::start_with(&["fsync=off", "full_page_writes=off"])
    }

    /// Starts a server with the given settings, `name=value` each.
    ///
    /// # Panics
    /// When the server is installed and does not start.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Option<Postgres> {
        let Some(binaries) = newest_installation() else {
            assert!(
                !demanded("COUNTERSIGN_DEMAND_POSTGRES"),
                "PostgreSQL is demanded, but /usr/lib/postgresql/*/bin/postgres does not exist: apt-get install postgresql"
            );
            eprintln!("skipped: PostgreSQL is not installed (apt-get install postgresql)");
            return None;
        };
        let mut complaint = String::new();
        for _ in 0..START_ATTEMPTS_MAX {
            match try_start(&binaries, settings) {
                Ok(server) => return Some(server),
                Err(error) => complaint = error,
            }
        }
        panic!("PostgreSQL does not start: {complaint}")
    }

    /// The one server that all tests of this binary share; see [`Postgres::start`].
    #[must_use]
    pub fn shared() -> Option<&'static Postgres> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Postgres::start).as_ref()
    }

    /// Makes an empty database and returns its URL, `postgres://postgres@127.0.0.1:PORT/NAME`.
    ///
    /// # Panics
    /// When the server refuses.
    #[must_use]
    pub fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let output = Command::new(self.binaries.join("createdb"))
            .args(["--template=template0", "--username=postgres"])
            .arg(format!("--host={}", self.directory.display()))
            .arg(format!("--port={}", self.port))
            .arg(&name)
            .output()
            .expect("createdb is beside the server");
        assert!(output.status.success(), "createdb: {}", String::from_utf8_lossy(&output.stderr));
        self.url(&name)
    }

    /// The URL of a database of this server.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// Ends every process of the server at once, without a checkpoint, as a power failure would, and starts it
    /// again on the same data and port.
    ///
    /// # Panics
    /// When the server does not come back.
    pub fn crash_and_restart(&mut self) {
        use std::io::Write;
        let stdin = self.keeper.stdin.as_mut().expect("the pipe to the keeper is open");
        stdin.write_all(b"crash\n").expect("the keeper lives");
        let stdout = self.keeper.stdout.as_mut().expect("the pipe from the keeper is open");
        let line = read_line(stdout);
        assert!(line.starts_with("ready"), "PostgreSQL does not come back after a crash: {line}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The end of the pipe tells the keeper to stop the server and to remove its directory.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Everything in the database at `url`, as `pg_dump` writes it.
///
/// # Panics
/// When the database cannot be dumped.
#[must_use]
pub fn dump_postgres(url: &str) -> Vec<u8> {
    let binaries = newest_installation().expect("PostgreSQL is installed where its tests run");
    let output =
        Command::new(binaries.join("pg_dump")).arg(url).output().expect("pg_dump is beside the server");
    assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs as the server's user. Every line on stdin but the last is a request to crash.
const KEEPER: &str = r#"
set -u
umask 077
bin=$1; port=$2; shift 2
dir=$(mktemp -d /tmp/countersign-pg.XXXXXX) || exit 1
server=
finish() { [ -n "$server" ] && kill -INT "$server" 2>/dev/null && wait "$server"; rm -rf "$dir"; }
trap finish EXIT
start() {
    "$bin/postgres" -D "$dir/data" -k "$dir" -p "$port" -c listen_addresses=127.0.0.1 -c max_connections=400 \
        "$@" >>"$dir/server.log" 2>&1 &
    server=$!
    tries=0
    until "$bin/pg_isready" -q -h "$dir" -p "$port"; do
        if ! kill -0 "$server" 2>/dev/null || [ "$tries" -gt 600 ]; then cat "$dir/server.log"; exit 1; fi
        tries=$((tries + 1)); sleep 0.05
    done
    echo "ready $dir"
}
"$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 \
    || { cat "$dir/initdb.log"; exit 1; }
start "$@"
while read -r _; do
    kill -QUIT "$server"; wait "$server"
    start "$@"
done
"#;

fn try_start(binaries: &Path, settings: &[&str]) -> Result<Postgres, String> {
    let port = free_port();
    let mut command = as_server_user();
    command.args(["sh", "-c", KEEPER, "keeper"]).arg(binaries).arg(port.to_string());
    for setting in settings {
        command.args(["-c", setting]);
    }
    let mut keeper = command
        .current_dir("/")
        // Interrupting the tests from a terminal must reach the keeper through the pipe alone.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let stdout = keeper.stdout.as_mut().ok_or("the keeper has no output")?;
    let line = read_line(stdout);
    let Some(directory) = line.strip_prefix("ready ") else {
        let mut rest = String::new();
        let _ = stdout.read_to_string(&mut rest);
        let _ = keeper.wait();
        return Err(format!("{line}\n{rest}"));
    };
    let directory = PathBuf::from(directory);
    Ok(Postgres { keeper, binaries: binaries.to_path_buf(), directory, port, databases: AtomicU32::new(0) })
}

fn read_line(pipe: &mut impl Read) -> String {
    let mut line = String::new();
    // One byte at a time: what follows the line must stay in the pipe.
    let _ = BufReader::with_capacity(1, pipe).read_line(&mut line);
    line.trim_end().to_owned()
}

/// PostgreSQL refuses to run as root, so root becomes `postgres`.
fn as_server_user() -> Command {
    if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]);
        command
    } else {
        Command::new("env")
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn newest_installation() -> Option<PathBuf> {
    let mut versions: Vec<(u32, OsString)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.file_name())))
        .collect();
    versions.sort();
    let path = Path::new("/usr/lib/postgresql").join(versions.pop()?.1).join("bin");
    path.join("postgres").exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_makes_databases_comes_back_from_a_crash_and_leaves_nothing_behind() {
        let Some(mut server) = Postgres::start() else { return };
        let (first, second) = (server.database(), server.database());
        assert_ne!(first, second);
        server.crash_and_restart();
        let _third = server.database();
        let directory = server.socket_directory().to_path_buf();
        drop(server);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port_of(&first))).is_err());
        // Only root or the same user can look; either way nothing is there.
        assert!(!directory.exists());
    }

    fn port_of(url: &str) -> u16 {
        let after = url.rsplit_once(':').expect("a URL with a port").1;
        after.split('/').next().and_then(|port| port.parse().ok()).expect("a port")
    }
}
