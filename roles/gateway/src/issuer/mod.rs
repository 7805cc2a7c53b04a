//! People of other houses: issuers of access tokens beside our own authority, and the keys that they sign with.
//!
//! Which issuer a token says it is from chooses by whose rules and keys it is judged, and nothing else: what none of
//! them is named by is judged as a token of our own. The rules are `token/foreign_access_token`; here is where the keys
//! come from, and that the last good ones stay in use until better ones come.

mod fetch;
mod file;
mod published;
pub(crate) mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_identity::UnixTime;
use countersign_keys::{JwkSet, JwkSetError};
use countersign_sdk::authenticate::ForeignTrust;
use countersign_sdk::clock;
use countersign_token::{ForeignIssuer, foreign_access_token::claimed_issuer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::file::KeyFile;
use self::published::{NoTurn, Published, Turn};
use self::settings::IssuerSettings;

/// Why the issuers do not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not the name of an issuer.
    #[error("`{issuer}` is no issuer; write an https url of at most 255 bytes, without query and fragment")]
    Name {
        /// As configured.
        issuer: String,
    },
    /// Audience or types are missing.
    #[error("issuer {issuer}: `audience` and `typ` must not be empty")]
    Empty {
        /// Which issuer.
        issuer: String,
    },
    /// Tokens may live for no time, or for too long.
    #[error("issuer {issuer}: lifetime_max_s = {seconds} must be from 1 to 2678400, which is 31 days")]
    Lifetime {
        /// Which issuer.
        issuer: String,
        /// As configured.
        seconds: u64,
    },
    /// The same issuer twice: one token, two rules.
    #[error("issuer {issuer} stands there twice; keep one")]
    Twice {
        /// Which issuer.
        issuer: String,
    },
    /// More than are kept.
    #[error("{count} issuers, at most 64")]
    TooMany {
        /// How many were configured.
        count: usize,
    },
    /// Its keys would be asked for too often, or count for too long.
    #[error(
        "issuer {issuer}: refresh_s must be at least 30, and keys_age_max_s no less than that and at most a week"
    )]
    Ages {
        /// Which issuer.
        issuer: String,
    },
    /// There is nothing to check its certificate with.
    #[error("issuer {issuer}: `ca`: {why}")]
    Roots {
        /// Which issuer.
        issuer: String,
        /// What is wrong.
        why: String,
    },
    /// The file with its keys cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// What was read is no key set.
    #[error("{place}: {source}")]
    Keys {
        /// File or URL.
        place: String,
        /// What is wrong with it.
        source: JwkSetError,
    },
}

/// Every issuer but our own.
#[derive(Default)]
pub(crate) struct Issuers(Vec<Arc<Issuer>>);

/// One of them.
struct Issuer {
    settings: IssuerSettings,
    rules: ForeignIssuer,
    keys: ArcSwap<Keys>,
    source: Source,
}

/// Where its keys come from.
enum Source {
    File(KeyFile),
    Published(Published),
}

/// What an issuer signs with, as far as we know.
#[derive(Debug, Default)]
struct Keys {
    set: JwkSet,
    /// Unlike that of any other set of this process, whichever settings it came with: sessions outlive a reload, and
    /// what was verified by other rules or keys is verified again.
    generation: u64,
    /// When they are too old to be believed, if they ever are. Before the first ones: always.
    good_until: Option<UnixTime>,
}

impl Keys {
    fn count_at(&self, now: UnixTime) -> bool {
        self.good_until.is_none_or(|end| now < end)
    }
}

/// An issuer with the keys that count now.
pub(crate) struct Guesthouse<'a> {
    rules: &'a ForeignIssuer,
    keys: Arc<Keys>,
    /// Which it was; kept beside whatever was verified by it.
    pub(crate) mark: GuestMark,
}

/// By which keys of which issuer something was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestMark {
    issuer: usize,
    generation: u64,
}

impl Issuers {
    /// Judges the settings and reads the files. An issuer whose settings are those that it has in `old` stays as it is,
    /// with its keys.
    pub(crate) fn load(settings: &[IssuerSettings], old: &Self) -> Result<Self, IssuerError> {
        if settings.len() > ISSUERS_MAX {
            return Err(IssuerError::TooMany { count: settings.len() });
        }
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        for entry in settings {
            let issuer = match old.0.iter().find(|issuer| issuer.settings == *entry) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Issuer::load(entry)?),
            };
            if issuers.iter().any(|other| other.rules.issuer == issuer.rules.issuer) {
                return Err(IssuerError::Twice { issuer: entry.issuer.clone() });
            }
            issuers.push(issuer);
        }
        Ok(Issuers(issuers))
    }

    /// By whose rules a token is judged, if not by ours.
    pub(crate) fn of_token(&self, token: &str, own_issuer: &str, now: UnixTime) -> Option<Guesthouse<'_>> {
        if self.0.is_empty() {
            return None;
        }
        let claimed = claimed_issuer(token).filter(|claimed| claimed != own_issuer)?;
        let (issuer, found) =
            self.0.iter().enumerate().find(|(_, candidate)| candidate.rules.issuer == claimed)?;
        let keys = found.keys_at(now);
        let mark = GuestMark { issuer, generation: keys.generation };
        Some(Guesthouse { rules: &found.rules, keys, mark })
    }

    /// Are the keys that something was verified by still the ones that count?
    pub(crate) fn stand_by(&self, mark: GuestMark, now: UnixTime) -> bool {
        self.0.get(mark.issuer).is_some_and(|issuer| {
            let keys = issuer.keys.load();
            keys.generation == mark.generation && keys.count_at(now)
        })
    }

    /// Asks an issuer for its keys, because a token names one that is not known; no sooner than its settings say.
    pub(crate) async fn refetch(&self, issuer: &str) -> Refetched {
        let Some(issuer) = self.0.iter().find(|candidate| candidate.rules.issuer == issuer) else {
            return Refetched::Nothing;
        };
        let may_be_others = issuer.refetch().await;
        match (issuer.keys_at(clock::now()).set.is_empty(), may_be_others) {
            (true, _) => Refetched::NoKeys,
            (false, true) => Refetched::New,
            (false, false) => Refetched::Nothing,
        }
    }

    /// Keeps the keys new until `shutdown`.
    pub(crate) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut watchers = JoinSet::new();
        for issuer in &self.0 {
            watchers.spawn(Arc::clone(issuer).watch(shutdown.clone()));
        }
        while watchers.join_next().await.is_some() {}
    }
}

/// What came of asking for keys again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refetched {
    /// There may be others now: judge again.
    New,
    /// What is known is all that there is.
    Nothing,
    /// Nothing is known at all.
    NoKeys,
}

impl Issuer {
    fn load(settings: &IssuerSettings) -> Result<Self, IssuerError> {
        let rules = settings.rules()?;
        let (keys, source) = match &settings.jwks_file {
            Some(path) => {
                let file = KeyFile::new(path);
                let keys = Keys { set: file.read()?, generation: next_generation(), good_until: None };
                (keys, Source::File(file))
            }
            None => {
                let good_until = Some(UnixTime::from_secs(0));
                let keys = Keys { good_until, generation: next_generation(), ..Keys::default() };
                (keys, Source::Published(Published::new(settings)?))
            }
        };
        Ok(Issuer { settings: settings.clone(), rules, keys: ArcSwap::from_pointee(keys), source })
    }

    /// The keys that count: none, if they are too old.
    fn keys_at(&self, now: UnixTime) -> Arc<Keys> {
        let keys = self.keys.load_full();
        if keys.count_at(now) {
            return keys;
        }
        Arc::new(Keys { generation: keys.generation, ..Keys::default() })
    }

    async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        match &self.source {
            Source::File(file) => file.watch(|set| self.put(set, None), shutdown).await,
            Source::Published(published) => {
                let mut pause = Duration::ZERO;
                while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                    let fetch = async { self.fetch(published, published.next_turn().await).await };
                    let Some(got) = shutdown.run_until_cancelled(fetch).await else { return };
                    pause = if got { published.refresh } else { published.pause };
                }
            }
        }
    }

    /// For a request: asks for the keys, or waits for somebody who does. Whether there may be others now.
    async fn refetch(self: &Arc<Self>) -> bool {
        let Source::Published(published) = &self.source else { return false };
        let turn = match published.turn().await {
            Ok(turn) => turn,
            Err(why) => return why == NoTurn::ByAnother,
        };
        let issuer = Arc::clone(self);
        // In a task of its own: a client that goes away takes its request along, and not the keys of all others.
        let fetch = tokio::spawn(async move {
            match &issuer.source {
                Source::Published(published) => issuer.fetch(published, turn).await,
                Source::File(_) => false,
            }
        });
        fetch.await.unwrap_or(false)
    }

    /// Asks for the keys and puts them in place. Whether it got them.
    async fn fetch(&self, published: &Published, turn: Turn) -> bool {
        match published.keys(&turn).await {
            Ok(set) => {
                self.put(set, Some(clock::now().saturating_add(published.age_max)));
                true
            }
            Err(error) => {
                let left_s = self.keys.load().good_until.map_or(0, |end| end.since(clock::now()).as_secs());
                tracing::error!(issuer = self.rules.issuer, %error, left_s, "keys of an issuer not fetched, the last ones stay in use");
                metrics::counter!("countersign_issuer_fetch_failures_total").increment(1);
                false
            }
        }
    }

    fn put(&self, set: JwkSet, good_until: Option<UnixTime>) {
        let old = self.keys.load();
        let is_new = old.set != set;
        if is_new {
            tracing::info!(issuer = self.rules.issuer, keys = set.len(), "keys of the issuer are new");
        }
        if is_new || old.good_until != good_until {
            let generation = if is_new { next_generation() } else { old.generation };
            self.keys.store(Arc::new(Keys { set, generation, good_until }));
        }
    }
}

impl Guesthouse<'_> {
    pub(crate) fn trust(&self) -> ForeignTrust<'_> {
        ForeignTrust { issuer: self.rules, keys: &self.keys.set }
    }
}

fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Few enough to look through.
const ISSUERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use countersign_keys::{KeyPair, SystemRandom};
    use countersign_testkit::{TempDir, temp_dir};
    use tokio::sync::Notify;

    use super::*;

    const PLAIN: &str = "insecure_http_issuer_on_loopback = true";
    const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

    fn jwks(kid: &str) -> String {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let own = key.public_key();
        format!(r#"{{"keys":[{}]}}"#, own.to_jwk().replace(&own.thumbprint(), kid))
    }

    fn entries(dir: &TempDir, toml: &str) -> Vec<IssuerSettings> {
        std::fs::write(dir.path().join("jwks.json"), jwks("k1")).unwrap();
        let toml = toml.replace("FILE", &dir.path().join("jwks.json").display().to_string());
        let settings: crate::Settings = toml::from_str(&toml).unwrap();
        settings.issuers
    }

    fn load(toml: &str) -> Result<Issuers, IssuerError> {
        let dir = temp_dir();
        Issuers::load(&entries(&dir, toml), &Issuers::default())
    }

    fn one(lines: &str) -> String {
        format!("[[issuer]]\naudience = \"backend\"\njwks_file = \"FILE\"\n{lines}\n")
    }

    #[test]
    fn an_issuer_is_found_by_what_a_token_says_unless_it_is_our_own() {
        let issuers = load(&one("issuer = \"https://a.test\"\ntyp = [\"JWT\", \"absent\"]")).unwrap();
        // {"iss":"https://a.test"}
        let token = "e30.eyJpc3MiOiJodHRwczovL2EudGVzdCJ9.";
        assert!(issuers.of_token(token, "https://ours.test", NOW).is_some());
        assert!(issuers.of_token(token, "https://a.test", NOW).is_none(), "our own rules come first");
        assert!(issuers.of_token("e30.e30.", "https://ours.test", NOW).is_none());
        assert!(Issuers::default().of_token(token, "", NOW).is_none());
    }

    #[test]
    fn rejects_names_of_which_two_guests_could_share_an_id() {
        for issuer in ["http://a.test", "https://", "https:///x", "https://a.test#x", "https://a.test?x", "a"]
        {
            let refused = load(&one(&format!("issuer = {issuer:?}"))).err();
            assert_eq!(refused, Some(IssuerError::Name { issuer: issuer.into() }));
        }
        let long = format!("https://{}", "a".repeat(248));
        assert!(matches!(load(&one(&format!("issuer = {long:?}"))).err(), Some(IssuerError::Name { .. })));
    }

    #[test]
    fn rejects_an_issuer_without_audience_types_or_a_bounded_life() {
        let issuer = "https://a.test".to_owned();
        let refused =
            load("[[issuer]]\nissuer = \"https://a.test\"\naudience = \"\"\njwks_file = \"FILE\"").err();
        assert_eq!(refused, Some(IssuerError::Empty { issuer: issuer.clone() }));
        let refused = load(&one("issuer = \"https://a.test\"\ntyp = []")).err();
        assert_eq!(refused, Some(IssuerError::Empty { issuer: issuer.clone() }));
        for seconds in [0, 2_678_401] {
            let refused =
                load(&one(&format!("issuer = \"https://a.test\"\nlifetime_max_s = {seconds}"))).err();
            assert_eq!(refused, Some(IssuerError::Lifetime { issuer: issuer.clone(), seconds }));
        }
    }

    #[test]
    fn rejects_the_same_issuer_twice_and_more_than_are_kept() {
        let twice = one("issuer = \"https://a.test\"").repeat(2);
        assert_eq!(load(&twice).err(), Some(IssuerError::Twice { issuer: "https://a.test".into() }));
        let many: String = (0..65).map(|n| one(&format!("issuer = \"https://{n}.test\""))).collect();
        assert_eq!(load(&many).err(), Some(IssuerError::TooMany { count: 65 }));
    }

    #[test]
    fn rejects_an_issuer_whose_keys_are_unreadable_or_none() {
        let missing =
            load("[[issuer]]\nissuer = \"https://a.test\"\naudience = \"b\"\njwks_file = \"/nowhere\"");
        assert!(matches!(missing.err(), Some(IssuerError::Unreadable { .. })));
        let dir = temp_dir();
        let settings = entries(&dir, &one("issuer = \"https://a.test\""));
        std::fs::write(dir.path().join("jwks.json"), "{}").unwrap();
        let Err(IssuerError::Keys { source, .. }) = Issuers::load(&settings, &Issuers::default()) else {
            panic!("no keys")
        };
        assert_eq!(source, JwkSetError::Malformed);
    }

    #[test]
    fn what_was_verified_by_keys_that_are_gone_counts_no_longer() {
        let issuers = load(&one("issuer = \"https://a.test\"")).unwrap();
        let issuer = issuers.0.first().unwrap();
        let mark = GuestMark { issuer: 0, generation: issuer.keys.load().generation };
        issuer.put(issuer.keys.load().set.clone(), None);
        assert!(issuers.stand_by(mark, NOW), "the same keys again");
        issuer.put(JwkSet::read(jwks("k2").as_bytes()).unwrap(), None);
        assert!(!issuers.stand_by(mark, NOW));
    }

    #[test]
    fn what_was_verified_under_other_settings_counts_no_longer() {
        let mark_of = |issuers: &Issuers| {
            let generation = issuers.0.first().unwrap().keys.load().generation;
            GuestMark { issuer: 0, generation }
        };
        let old = load(&one("issuer = \"https://a.test\"\nroles = { x = \"admin\" }")).unwrap();
        let new = load(&one("issuer = \"https://b.test\"")).unwrap();
        assert!(old.stand_by(mark_of(&old), NOW) && new.stand_by(mark_of(&new), NOW));
        assert!(!new.stand_by(mark_of(&old), NOW));
    }

    #[test]
    fn an_issuer_whose_settings_stay_keeps_its_keys_when_another_changes() {
        let entry = |port: u16, more: &str| {
            format!("[[issuer]]\nissuer = \"http://127.0.0.1:{port}\"\naudience = \"b\"\n{PLAIN}\n{more}\n")
        };
        let dir = temp_dir();
        let old = entries(&dir, &(entry(1, "") + &entry(2, "")));
        let old = Issuers::load(&old, &Issuers::default()).unwrap();
        for issuer in &old.0 {
            issuer.put(JwkSet::read(jwks("k1").as_bytes()).unwrap(), None);
        }
        let new = entries(&dir, &(entry(2, "lifetime_max_s = 60") + &entry(1, "")));
        let new = Issuers::load(&new, &old).unwrap();
        let known: Vec<_> = new.0.iter().map(|issuer| !issuer.keys_at(NOW).set.is_empty()).collect();
        assert_eq!(known, [false, true]);
    }

    /// An issuer that answers when it may.
    struct Site {
        issuers: Issuers,
        place: String,
        asked: Arc<Notify>,
        may_answer: Arc<Notify>,
    }

    async fn site() -> Site {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("http://{}", listener.local_addr().unwrap());
        let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let metadata = format!("{{\"issuer\":\"{place}\",\"jwks_uri\":\"{place}/keys\"}}");
        let (ask, answer, keys) = (Arc::clone(&asked), Arc::clone(&may_answer), jwks("k1"));
        let router = axum::Router::new()
            .route(
                "/.well-known/openid-configuration",
                axum::routing::get(move || async move {
                    ask.notify_one();
                    answer.notified().await;
                    metadata
                }),
            )
            .route("/keys", axum::routing::get(move || async move { keys }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let toml = format!("[[issuer]]\nissuer = \"{place}\"\naudience = \"b\"\n{PLAIN}");
        Site { issuers: load(&toml).unwrap(), place, asked, may_answer }
    }

    #[tokio::test]
    async fn keys_arrive_though_the_request_that_asked_for_them_went_away() {
        let site = site().await;
        tokio::select! {
            refetched = site.issuers.refetch(&site.place) => panic!("nobody answered, and there is {refetched:?}"),
            () = site.asked.notified() => {}
        }
        site.may_answer.notify_one();
        let issuer = site.issuers.0.first().unwrap();
        let arrival = async {
            while issuer.keys_at(clock::now()).set.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), arrival).await.unwrap();
    }

    #[tokio::test]
    async fn keys_are_kept_new_however_lately_a_request_asked_for_them() {
        let site = site().await;
        site.may_answer.notify_one();
        assert_eq!(site.issuers.refetch(&site.place).await, Refetched::New);
        site.asked.notified().await;
        tokio::spawn(Arc::new(site.issuers).watch(CancellationToken::new()));
        tokio::time::timeout(Duration::from_secs(10), site.asked.notified()).await.unwrap();
    }

    #[test]
    fn the_last_keys_that_were_fetched_count_until_they_are_too_old() {
        let toml = "[[issuer]]\nissuer = \"http://127.0.0.1:1\"\naudience = \"b\"\ninsecure_http_issuer_on_loopback = true";
        let issuers = load(toml).unwrap();
        let issuer = issuers.0.first().unwrap();
        assert!(issuer.keys_at(NOW).set.is_empty(), "before the first ones there are none");
        issuer.put(JwkSet::read(jwks("k1").as_bytes()).unwrap(), Some(NOW));
        let before = NOW.saturating_sub(Duration::from_secs(1));
        let mark = GuestMark { issuer: 0, generation: issuer.keys.load().generation };
        assert!(issuers.stand_by(mark, before) && !issuer.keys_at(before).set.is_empty());
        assert!(!issuers.stand_by(mark, NOW) && issuer.keys_at(NOW).set.is_empty());
    }

    #[test]
    fn rejects_keys_that_are_asked_for_too_often_or_count_for_too_long() {
        let entry =
            |lines: &str| format!("[[issuer]]\nissuer = \"https://a.test\"\naudience = \"b\"\n{lines}");
        for lines in ["refresh_s = 29", "refresh_s = 600\nkeys_age_max_s = 599", "keys_age_max_s = 604801"] {
            let refused = load(&entry(lines)).err();
            assert_eq!(refused, Some(IssuerError::Ages { issuer: "https://a.test".into() }), "{lines}");
        }
        for ca in ["/nowhere", "FILE"] {
            let refused = load(&entry(&format!("ca = {ca:?}"))).err();
            assert!(matches!(refused, Some(IssuerError::Roots { .. })), "{refused:?}");
        }
    }
}
