//! From an address to a country, by a file in MaxMind's format that the operator brings. Read again when it changes; a
//! file that cannot be read keeps the one before.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use maxminddb::{Reader, path};
use serde::{Deserialize, Deserializer, de};
use tokio_util::sync::CancellationToken;

/// A country's two letters (ISO 3166-1 alpha-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country([u8; 2]);

impl Country {
    fn parse(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Country(letters))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong =
            || de::Error::custom(format!("`{text}` is no country; write two capital letters, such as AT"));
        Country::parse(&text).ok_or_else(wrong)
    }
}

/// Which address is in which country.
pub(crate) struct Countries {
    file: PathBuf,
    table: ArcSwap<Table>,
}

struct Table {
    reader: Reader<Vec<u8>>,
    state: FileState,
}

/// What changes when a file is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileState {
    modified: Option<SystemTime>,
    bytes: u64,
}

/// Why the file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CountriesError {
    /// It cannot be read, or is too long.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// It is no such file.
    #[error("{path} is no MaxMind database: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// What its reader said.
        why: String,
    },
}

impl Countries {
    pub(crate) fn load(file: &Path) -> Result<Self, CountriesError> {
        let table = ArcSwap::from_pointee(Table::read(file)?);
        Ok(Countries { file: file.to_path_buf(), table })
    }

    /// The country of an address, if the file knows one.
    pub(crate) fn of(&self, address: IpAddr) -> Option<Country> {
        let table = self.table.load();
        let found = table.reader.lookup(address.to_canonical()).ok()?;
        let code: Option<&str> = found.decode_path(&path!["country", "iso_code"]).ok()?;
        Country::parse(code?)
    }

    /// Looks at the file again and again until `shutdown`.
    pub(crate) async fn watch(&self, shutdown: CancellationToken) {
        let mut last_error = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            let (file, known) = (self.file.clone(), self.table.load().state);
            let read = move || (state(&file) != Some(known)).then(|| Table::read(&file));
            let Ok(Some(read)) = tokio::task::spawn_blocking(read).await else { continue };
            let error = match read {
                Ok(table) => {
                    tracing::info!(file = %self.file.display(), "countries reloaded");
                    self.table.store(table.into());
                    None
                }
                Err(error) => Some(error),
            };
            if error.is_some() && error != last_error {
                let why = error.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::error!(why, "countries not reloaded, the old file stays in use");
            }
            last_error = error;
        }
    }
}

impl Table {
    fn read(file: &Path) -> Result<Self, CountriesError> {
        let path = || file.display().to_string();
        let unreadable = |why: String| CountriesError::Unreadable { path: path(), why };
        let known = state(file).ok_or_else(|| unreadable("no such file".to_owned()))?;
        if known.bytes > FILE_BYTES_MAX {
            return Err(unreadable(format!("more than {FILE_BYTES_MAX} bytes")));
        }
        let bytes = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
        let malformed = |error: maxminddb::MaxMindDbError| CountriesError::Malformed {
            path: path(),
            why: error.to_string(),
        };
        let reader = Reader::from_source(bytes).map_err(malformed)?;
        // Every record once, now, so that none of them can be found broken later.
        reader.verify().map_err(malformed)?;
        Ok(Table { reader, state: known })
    }
}

fn state(file: &Path) -> Option<FileState> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(FileState { modified: metadata.modified().ok(), bytes: metadata.len() })
}

const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Files of whole cities have fewer.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
