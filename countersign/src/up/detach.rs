//! `up --detach`: the same `up` in the background, in a session of its own.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use crate::error::CliError;
use crate::up::layout::Layout;
use crate::up::lock::{Holder, Lock};
use crate::up::{POLL, Ready, START, UpArgs, announce};

/// Starts `up` in the background and returns when it is ready, with its exit code and last words when it is not.
///
/// # Errors
/// As [`crate::up::up`].
pub async fn detach(layout: &Layout, args: &UpArgs) -> Result<(), CliError> {
    let failed = |e: std::io::Error| {
        CliError::failed("the background process does not start", e, "try without --detach")
    };
    let log_path = layout.up_log();
    // A supervisor that runs already goes on writing to the same log.
    let fresh = Lock::holder(&layout.state_dir)? == Holder::Nobody;
    let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(failed)?;
    if fresh {
        log.set_len(0).map_err(failed)?;
    }
    let begin = log.metadata().map_err(failed)?.len();
    let mut command = tokio::process::Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--state-dir").arg(&layout.state_dir).args(["up", "--in-background", "--json"]);
    if let Some(trust_domain) = &args.trust_domain {
        command.args(["--trust-domain", trust_domain.as_str()]);
    }
    if let Some(mode) = args.mode {
        command.args(["--mode", mode.as_str()]).args(args.carries.arguments());
    }
    if args.sidecar {
        command.arg("--sidecar");
    }
    if args.ephemeral {
        command.arg("--ephemeral");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + START;
    loop {
        // The child prints the line of the `up` that runs already, too, and then ends well.
        let ended = child.try_wait().map_err(failed)?;
        if let Ok(ready) = Ready::read(&layout.state_dir)
            && (Some(ready.pid) == child.id() || ended.is_some_and(|status| status.success()))
        {
            let already = Some(ready.pid) != child.id();
            return announce(&ready, args, already);
        }
        if let Some(status) = ended {
            return Err(background_error(&log_path, begin, status.code()));
        }
        if Instant::now() > deadline {
            let _ = child.kill().await;
            return Err(CliError::failed(
                "the deployment does not become ready",
                "",
                format!("read {}", log_path.display()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the background process wrote for the person after `begin`, said again with its exit code.
fn background_error(log: &Path, begin: u64, code: Option<i32>) -> CliError {
    let bytes = std::fs::read(log).unwrap_or_default();
    let begin = usize::try_from(begin).unwrap_or(usize::MAX);
    let text = String::from_utf8_lossy(bytes.get(begin..).unwrap_or_default());
    let words = text.rsplit_once("error: ").map_or(text.as_ref(), |(_, words)| words).trim();
    match code {
        // It found another one ready, which then ended before this process could look at it.
        Some(0) => CliError::failed("the deployment ended just now", "somebody ended it", "try again"),
        Some(2) => CliError::usage(words, "", ""),
        _ => CliError::failed(words, "", format!("read {}", log.display())),
    }
}
