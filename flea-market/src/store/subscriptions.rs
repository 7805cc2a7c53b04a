//! Saved searches and what they found.

use countersign_identity::UnixTime;
use sqlx::{Row, any::AnyRow};

use super::{Db, StoreError};
use crate::place::Place;

/// Most notifications that are kept for one person; the oldest go first.
const NOTIFICATIONS_MAX: i64 = 100;
/// Most searches that one new advertisement is held against.
const SEARCHES_MAX: i64 = 10_000;

/// The saved searches of everybody.
#[derive(Clone, Debug)]
pub struct SubscriptionStore(Db);

/// A saved search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Its number.
    pub id: i64,
    /// What is looked for.
    pub content: SearchToKeep,
    /// Since when.
    pub created_at: UnixTime,
}

/// What somebody looks for; what is absent does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchToKeep {
    /// Who looks for it.
    pub owner: String,
    /// Text in the title, in lower case.
    pub words: Option<String>,
    /// `sell`, `rent` or `swap`.
    pub kind: Option<String>,
    /// The most that it may cost, in cents.
    pub price_cents_max: Option<i64>,
    /// Where, and how far away from there in kilometres.
    pub near: Option<(Place, u32)>,
}

/// What a saved search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its number among those of the same person, from 1.
    pub number: i64,
    /// Which search.
    pub search: i64,
    /// Which advertisement.
    pub ad: i64,
    /// Its title.
    pub title: String,
    /// When.
    pub created_at: UnixTime,
}

impl SubscriptionStore {
    /// Opens the database of the subscriptions service.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        Ok(Self(Db::open(address, "subscriptions", include_str!("subscriptions.sql")).await?))
    }

    /// What every service keeps.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.0
    }

    /// Saves a search.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn save(&self, content: SearchToKeep, now: UnixTime) -> Result<Search, StoreError> {
        let mut transaction = self.0.begin().await?;
        let id = Db::next_number(&mut transaction, "searches").await?;
        let save = "INSERT INTO searches (id, owner, words, kind, price_cents_max, latitude, longitude,
                                          within_km, created_at)
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        sqlx::query(save)
            .bind(id)
            .bind(&content.owner)
            .bind(&content.words)
            .bind(&content.kind)
            .bind(content.price_cents_max)
            .bind(content.near.map(|(place, _)| place.latitude_micro()))
            .bind(content.near.map(|(place, _)| place.longitude_micro()))
            .bind(content.near.map(|(_, km)| i64::from(km)))
            .bind(now.millis())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Search { id, content, created_at: now })
    }

    /// The searches of a person.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn searches_of(&self, owner: &str) -> Result<Vec<Search>, StoreError> {
        let mine = sqlx::query("SELECT * FROM searches WHERE owner = $1 ORDER BY id").bind(owner);
        mine.fetch_all(self.0.reader()).await?.iter().map(search).collect()
    }

    /// The searches that an advertisement of this kind and price could be what they look for; words
    /// and distance are for the caller to judge.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn candidates(&self, kind: &str, price_cents: Option<i64>) -> Result<Vec<Search>, StoreError> {
        let candidates = "SELECT * FROM searches WHERE (kind IS NULL OR kind = $1)
            AND (price_cents_max IS NULL OR price_cents_max >= $2) ORDER BY id LIMIT $3";
        let rows = sqlx::query(candidates)
            .bind(kind)
            .bind(price_cents.unwrap_or(0))
            .bind(SEARCHES_MAX)
            .fetch_all(self.0.reader())
            .await?;
        rows.iter().map(search).collect()
    }

    /// Deletes a search of a person, and says whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete(&self, id: i64, owner: &str) -> Result<bool, StoreError> {
        let delete = "DELETE FROM searches WHERE id = $1 AND owner = $2 RETURNING id";
        let row = sqlx::query(delete).bind(id).bind(owner).fetch_optional(self.0.writer()).await?;
        Ok(row.is_some())
    }

    /// Notes that these searches found this advertisement; one that was noted before is not noted
    /// again. Says how many are new.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn notify(
        &self,
        searches: &[Search],
        ad: i64,
        title: &str,
        now: UnixTime,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.0.begin().await?;
        let mut noted: u64 = 0;
        for found in searches {
            let owner = &found.content.owner;
            let number = Db::next_number(&mut transaction, &format!("notifications of {owner}")).await?;
            let note = "INSERT INTO notifications (owner, number, search, ad, title, created_at)
                        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (search, ad) DO NOTHING";
            let note = sqlx::query(note).bind(owner).bind(number).bind(found.id).bind(ad).bind(title);
            let done = note.bind(now.millis()).execute(&mut *transaction).await?;
            noted = noted.saturating_add(done.rows_affected());
            let forget = "DELETE FROM notifications WHERE owner = $1 AND number <= $2";
            let oldest = number.saturating_sub(NOTIFICATIONS_MAX);
            sqlx::query(forget).bind(owner).bind(oldest).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(noted)
    }

    /// The notifications of a person, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn notifications_of(&self, owner: &str) -> Result<Vec<Notification>, StoreError> {
        let mine = "SELECT * FROM notifications WHERE owner = $1 ORDER BY number DESC LIMIT $2";
        let rows = sqlx::query(mine).bind(owner).bind(NOTIFICATIONS_MAX).fetch_all(self.0.reader()).await?;
        rows.iter().map(notification).collect()
    }

    /// Whether nobody ever saved a search.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        self.0.is_unused("searches").await
    }
}

fn search(row: &AnyRow) -> Result<Search, StoreError> {
    let latitude: Option<i64> = row.try_get("latitude")?;
    let longitude: Option<i64> = row.try_get("longitude")?;
    let within_km: Option<i64> = row.try_get("within_km")?;
    let near = match (latitude, longitude, within_km) {
        (Some(latitude), Some(longitude), Some(km)) => {
            let place = Place::from_micro(latitude, longitude).zip(u32::try_from(km).ok());
            Some(place.ok_or(StoreError::Unreadable { what: "place of a search" })?)
        }
        _ => None,
    };
    let content = SearchToKeep {
        owner: row.try_get("owner")?,
        words: row.try_get("words")?,
        kind: row.try_get("kind")?,
        price_cents_max: row.try_get("price_cents_max")?,
        near,
    };
    Ok(Search {
        id: row.try_get("id")?,
        content,
        created_at: UnixTime::from_millis(row.try_get("created_at")?),
    })
}

fn notification(row: &AnyRow) -> Result<Notification, StoreError> {
    Ok(Notification {
        number: row.try_get("number")?,
        search: row.try_get("search")?,
        ad: row.try_get("ad")?,
        title: row.try_get("title")?,
        created_at: UnixTime::from_millis(row.try_get("created_at")?),
    })
}
