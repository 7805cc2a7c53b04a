//! Profiles.

use countersign_identity::UnixTime;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::{Db, StoreError};

/// The profiles of everybody.
#[derive(Clone, Debug)]
pub struct UserStore(Db);

/// What people say about themselves, and what others said about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Unique, and for good.
    pub handle: String,
    /// What others see.
    pub display_name: String,
    /// Where they live.
    pub town: String,
    /// Some lines.
    pub about: String,
    /// In tenths of a star, 10 to 50; nothing before the first deal.
    pub rating: Option<i64>,
    /// How many deals they have made.
    pub deals: i64,
    /// Since when they are here.
    pub joined_at: UnixTime,
}

impl UserStore {
    /// Opens the database of the users service.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        Ok(Self(Db::open(address, "users", include_str!("users.sql")).await?))
    }

    /// What every service keeps.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.0
    }

    /// One profile.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, handle: &str) -> Result<Option<Profile>, StoreError> {
        let one = sqlx::query("SELECT * FROM profiles WHERE handle = $1").bind(handle);
        one.fetch_optional(self.0.reader()).await?.as_ref().map(profile).transpose()
    }

    /// The profiles of those handles that exist; the caller bounds how many it asks for.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_all(&self, handles: &[&str]) -> Result<Vec<Profile>, StoreError> {
        if handles.is_empty() {
            return Ok(Vec::new());
        }
        // One statement for all of them; its text depends on how many there are, never on what they say.
        let places: Vec<String> = (1..=handles.len()).map(|place| format!("${place}")).collect();
        let all = format!("SELECT * FROM profiles WHERE handle IN ({})", places.join(", "));
        let all = handles.iter().fold(sqlx::query(AssertSqlSafe(all)), |all, handle| all.bind(*handle));
        all.fetch_all(self.0.reader()).await?.iter().map(profile).collect()
    }

    /// Writes what people say about themselves; rating, deals and the day they joined stay.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn write(&self, profile: &Profile) -> Result<(), StoreError> {
        let write = "INSERT INTO profiles (handle, display_name, town, about, rating, deals, joined_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (handle) DO UPDATE SET display_name = excluded.display_name,
                town = excluded.town, about = excluded.about";
        sqlx::query(write)
            .bind(&profile.handle)
            .bind(&profile.display_name)
            .bind(&profile.town)
            .bind(&profile.about)
            .bind(profile.rating)
            .bind(profile.deals)
            .bind(profile.joined_at.millis())
            .execute(self.0.writer())
            .await?;
        Ok(())
    }

    /// Whether there is no profile yet.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        let any = sqlx::query("SELECT handle FROM profiles LIMIT 1").fetch_optional(self.0.reader()).await?;
        Ok(any.is_none())
    }
}

fn profile(row: &AnyRow) -> Result<Profile, StoreError> {
    Ok(Profile {
        handle: row.try_get("handle")?,
        display_name: row.try_get("display_name")?,
        town: row.try_get("town")?,
        about: row.try_get("about")?,
        rating: row.try_get("rating")?,
        deals: row.try_get("deals")?,
        joined_at: UnixTime::from_millis(row.try_get("joined_at")?),
    })
}
