//! Looking at the files every second: what changed is swapped as a whole, what is bad stays outside.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

use super::{Contents, FileIdentity, FilesError, Home};
use crate::{
    clock,
    live::{Live, LiveCell},
    policy_dir::is_policy,
    tls::TrustState,
};

/// The task that watches.
pub(super) struct Watching {
    watched: Arc<Watched>,
    look: Look,
}

struct Watched {
    files: FileIdentity,
    home: Home,
    trust: Arc<TrustState>,
    live: Arc<LiveCell>,
}

/// What was seen the last time.
pub(super) struct Look {
    stamps: Vec<Stamp>,
    /// A file may be replaced within one tick of its time stamp: as long as one of them is this young, its bytes are
    /// looked at as well.
    settled: bool,
    /// Of what was looked at last, good or bad: what is bad is said once.
    digest: Option<[u8; 32]>,
    /// Said already.
    refusal: Option<FilesError>,
}

/// Tells one state of a file from the next.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Device, inode, size, and time of the last change in seconds and nanoseconds.
    seen: Option<(u64, u64, u64, i64, i64)>,
}

impl Watching {
    pub(super) fn new(
        files: FileIdentity,
        home: Home,
        look: Look,
        trust: Arc<TrustState>,
        live: Arc<LiveCell>,
    ) -> Self {
        Self { watched: Arc::new(Watched { files, home, trust, live }), look }
    }

    /// Watches for ever.
    pub(super) async fn run(self) {
        let Self { watched, mut look } = self;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looking = Arc::clone(&watched);
            let looked = tokio::task::spawn_blocking(move || {
                looking.look(&mut look);
                look
            });
            match looked.await {
                Ok(back) => look = back,
                Err(error) => {
                    tracing::error!(%error, "the files of our identity are not watched any more");
                    return;
                }
            }
        }
    }
}

impl Watched {
    fn look(&self, look: &mut Look) {
        let taken = look.changed(&self.files).and_then(|contents| match contents {
            Some(contents) => self.take(contents).map(|()| true),
            None => Ok(false),
        });
        match taken {
            Ok(false) => {}
            Ok(true) => {
                look.refusal = None;
                metrics::gauge!(RELOAD_SUCCESS).set(1.0);
                tracing::info!(cert = %self.files.cert.display(), "identity, roots and policies were read again");
            }
            Err(error) => {
                metrics::gauge!(RELOAD_SUCCESS).set(0.0);
                if look.refusal.as_ref() != Some(&error) {
                    tracing::error!(%error, "the files of our identity are refused: the old ones stay in force");
                }
                look.refusal = Some(error);
            }
        }
    }

    fn take(&self, contents: Contents) -> Result<(), FilesError> {
        let loaded = contents.judge(&self.files, Some(&self.home))?;
        let held = self.live.load();
        let sequence = held.snapshot().sequence + 1;
        let snapshot = self.files.snapshot(&self.home, sequence, &loaded);
        let live = Live::compile_after(Some(&held), snapshot, Some(self.home.name.as_str()))?;
        let same_chain =
            self.trust.load().identity().is_some_and(|own| own.chain() == loaded.identity.chain());
        if !same_chain || held.snapshot().bundles != live.snapshot().bundles {
            // Revocations first: whoever sees the new policies sees them too.
            self.trust.set(loaded.identity, live.bundles().clone());
        }
        self.live.store(live);
        Ok(())
    }
}

impl Look {
    pub(super) fn first(files: &FileIdentity) -> Result<(Self, Contents), FilesError> {
        // Before the bytes: whoever changes them meanwhile is seen the next time.
        let (stamps, settled) = stamps(files);
        let contents = Contents::read(files)?;
        let digest = Some(contents.digest());
        Ok((Self { stamps, settled, digest, refusal: None }, contents))
    }

    /// The contents, if they differ from those of the last time.
    fn changed(&mut self, files: &FileIdentity) -> Result<Option<Contents>, FilesError> {
        let (stamps, settled) = stamps(files);
        if self.settled && self.stamps == stamps {
            return Ok(None);
        }
        let contents = Contents::read(files);
        (self.stamps, self.settled) = (stamps, settled);
        let contents = contents.inspect_err(|_| self.digest = None)?;
        let digest = Some(contents.digest());
        let same = self.digest == digest;
        self.digest = digest;
        Ok((!same).then_some(contents))
    }
}

/// The state of every file that is read, and whether all of them have been so for a while.
fn stamps(files: &FileIdentity) -> (Vec<Stamp>, bool) {
    let pems = [&files.cert, &files.key, &files.ca].into_iter().chain(&files.crl).cloned();
    let mut paths: Vec<PathBuf> = pems.collect();
    if let Some(dir) = &files.policy_dir {
        paths.push(dir.clone());
        // What cannot be listed cannot be read either, and is said then.
        let listing = fs::read_dir(dir).into_iter().flatten().filter_map(|item| Some(item.ok()?.path()));
        let mut policies: Vec<_> = listing.filter(|path| is_policy(path)).collect();
        policies.sort();
        paths.extend(policies);
    }
    let stamps: Vec<_> = paths.into_iter().map(Stamp::of).collect();
    let young = clock::now().secs().saturating_sub(YOUNG_SECONDS);
    let settled = stamps.iter().all(|stamp| stamp.seen.is_none_or(|(.., changed, _)| changed < young));
    (stamps, settled)
}

impl Stamp {
    fn of(path: PathBuf) -> Self {
        let seen = fs::metadata(&path).ok();
        let seen = seen.map(|data| (data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()));
        Self { path, seen }
    }
}

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Coarser than the time stamps of any file system.
const YOUNG_SECONDS: i64 = 3;
/// As with all configuration that is read again.
const RELOAD_SUCCESS: &str = "countersign_config_reload_success";
