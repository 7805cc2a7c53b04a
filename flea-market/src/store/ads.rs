//! Advertisements.

use countersign_identity::UnixTime;
use sqlx::{Row, any::AnyRow};

use super::{Db, StoreError};
use crate::place::Place;

/// Most advertisements in one answer of the store.
const ADS_MAX: i64 = 200;

/// The advertisements of everybody.
#[derive(Clone, Debug)]
pub struct AdStore(Db);

/// An advertisement as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ad {
    /// Its number.
    pub id: i64,
    /// What was said about it.
    pub content: AdToKeep,
    /// When it was published.
    pub created_at: UnixTime,
    /// Whether somebody took it.
    pub taken: Option<Taken>,
}

/// What a seller says about a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdToKeep {
    /// The handle of the seller.
    pub seller: String,
    /// `sell`, `rent` or `swap`.
    pub kind: String,
    /// One line.
    pub title: String,
    /// Some lines.
    pub description: String,
    /// `music`, `bicycles`, …
    pub category: String,
    /// In cents: the price, or the rent per day.
    pub price_cents: Option<i64>,
    /// What the seller wants for it.
    pub swap_for: Option<String>,
    /// The name of the place.
    pub town: String,
    /// Where it is.
    pub place: Place,
    /// The number of a picture at the media service.
    pub picture: Option<i64>,
}

/// Who took a thing, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Their handle.
    pub by: String,
    /// When.
    pub at: UnixTime,
    /// Days of rent, or what was offered.
    pub note: String,
}

/// Which advertisements are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nearby {
    /// The nearest first; without it, the newest first.
    pub near: Option<Place>,
    /// Only within this distance of `near`.
    pub within_km: Option<u32>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only with this text in title or description, whatever its case.
    pub words: Option<String>,
    /// Only of this seller.
    pub seller: Option<String>,
}

impl AdStore {
    /// Opens the database of the ads service.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        Ok(Self(Db::open(address, "ads", include_str!("ads.sql")).await?))
    }

    /// What every service keeps.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.0
    }

    /// Publishes an advertisement.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn publish(&self, content: AdToKeep, now: UnixTime) -> Result<Ad, StoreError> {
        let mut transaction = self.0.begin().await?;
        let id = Db::next_number(&mut transaction, "ads").await?;
        let insert = "INSERT INTO ads (id, seller, kind, title, description, category, price_cents, swap_for,
                                       town, latitude, longitude, picture, created_at)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
        sqlx::query(insert)
            .bind(id)
            .bind(&content.seller)
            .bind(&content.kind)
            .bind(&content.title)
            .bind(&content.description)
            .bind(&content.category)
            .bind(content.price_cents)
            .bind(&content.swap_for)
            .bind(&content.town)
            .bind(content.place.latitude_micro())
            .bind(content.place.longitude_micro())
            .bind(content.picture)
            .bind(now.millis())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Ad { id, content, created_at: now, taken: None })
    }

    /// Open advertisements; never more than 200.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open_ads(&self, wanted: &Nearby) -> Result<Vec<Ad>, StoreError> {
        let center = wanted.near.unwrap_or_default();
        let (south_west, north_east) = match (wanted.near, wanted.within_km) {
            (Some(near), Some(km)) => near.box_around(km),
            _ => Place::EVERYWHERE,
        };
        // A degree of longitude is shorter than one of latitude by the cosine of the latitude; with
        // its square in hundredths, whole numbers order by distance well enough.
        let shrink = center.longitude_shrink_percent();
        let nearest = "SELECT * FROM ads WHERE taken_at IS NULL
              AND latitude BETWEEN $1 AND $2 AND longitude BETWEEN $3 AND $4
              AND (CAST($5 AS TEXT) IS NULL OR kind = $5)
              AND (CAST($6 AS TEXT) IS NULL OR lower(title) LIKE $6 ESCAPE '!' OR lower(description) LIKE $6 ESCAPE '!')
              AND (CAST($7 AS TEXT) IS NULL OR seller = $7)
            ORDER BY CASE WHEN $8 = 0 THEN 0 ELSE
                (latitude - $9) * (latitude - $9) * 100 + (longitude - $10) * (longitude - $10) * $11 END,
              created_at DESC, id DESC
            LIMIT $12";
        let rows = sqlx::query(nearest)
            .bind(south_west.latitude_micro())
            .bind(north_east.latitude_micro())
            .bind(south_west.longitude_micro())
            .bind(north_east.longitude_micro())
            .bind(&wanted.kind)
            .bind(wanted.words.as_deref().map(contains))
            .bind(&wanted.seller)
            .bind(i64::from(wanted.near.is_some()))
            .bind(center.latitude_micro())
            .bind(center.longitude_micro())
            .bind(shrink)
            .bind(ADS_MAX)
            .fetch_all(self.0.reader())
            .await?;
        rows.iter().map(ad).collect()
    }

    /// One advertisement, also when it is taken.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, id: i64) -> Result<Option<Ad>, StoreError> {
        let one = sqlx::query("SELECT * FROM ads WHERE id = $1").bind(id);
        one.fetch_optional(self.0.reader()).await?.as_ref().map(ad).transpose()
    }

    /// Takes an advertisement of this kind if it is still open; of two who try, one gets it. Says
    /// whether it was us.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn take(&self, id: i64, kind: &str, taken: &Taken) -> Result<bool, StoreError> {
        let take = "UPDATE ads SET taken_at = $1, taken_by = $2, taken_note = $3
                    WHERE id = $4 AND kind = $5 AND taken_at IS NULL AND seller <> $2 RETURNING id";
        let row = sqlx::query(take)
            .bind(taken.at.millis())
            .bind(&taken.by)
            .bind(&taken.note)
            .bind(id)
            .bind(kind)
            .fetch_optional(self.0.writer())
            .await?;
        Ok(row.is_some())
    }

    /// Removes an advertisement; with `seller`, only if it is theirs. Says whether it was removed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn remove(&self, id: i64, seller: Option<&str>) -> Result<bool, StoreError> {
        let remove =
            "DELETE FROM ads WHERE id = $1 AND (CAST($2 AS TEXT) IS NULL OR seller = $2) RETURNING id";
        let row = sqlx::query(remove).bind(id).bind(seller).fetch_optional(self.0.writer()).await?;
        Ok(row.is_some())
    }

    /// How many open advertisements a seller has.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_of(&self, seller: &str) -> Result<i64, StoreError> {
        let count = "SELECT COUNT(*) FROM ads WHERE seller = $1 AND taken_at IS NULL";
        Ok(sqlx::query_scalar(count).bind(seller).fetch_one(self.0.reader()).await?)
    }

    /// Whether there never was an advertisement.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        self.0.is_unused("ads").await
    }
}

/// A LIKE pattern in which what people type stands for itself.
fn contains(words: &str) -> String {
    let mut pattern = String::from("%");
    for c in words.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern + "%"
}

fn ad(row: &AnyRow) -> Result<Ad, StoreError> {
    let place = Place::from_micro(row.try_get("latitude")?, row.try_get("longitude")?);
    let taken = match row.try_get::<Option<i64>, _>("taken_at")? {
        None => None,
        Some(at) => Some(Taken {
            by: row.try_get("taken_by")?,
            at: UnixTime::from_millis(at),
            note: row.try_get("taken_note")?,
        }),
    };
    let content = AdToKeep {
        seller: row.try_get("seller")?,
        kind: row.try_get("kind")?,
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        category: row.try_get("category")?,
        price_cents: row.try_get("price_cents")?,
        swap_for: row.try_get("swap_for")?,
        town: row.try_get("town")?,
        place: place.ok_or(StoreError::Unreadable { what: "place of an advertisement" })?,
        picture: row.try_get("picture")?,
    };
    Ok(Ad {
        id: row.try_get("id")?,
        content,
        created_at: UnixTime::from_millis(row.try_get("created_at")?),
        taken,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_place_that_is_nowhere_is_unreadable_and_never_guessed() {
        let directory = countersign_testkit::temp_dir();
        let address = format!("sqlite:{}", directory.path().join("ads.db").display());
        let store = AdStore::open(&address).await.unwrap();
        crate::seed::ads(&store).await.unwrap();
        sqlx::query("UPDATE ads SET latitude = 99000000 WHERE id = 1")
            .execute(store.0.writer())
            .await
            .unwrap();
        let refused = store.find(1).await.unwrap_err();
        assert_eq!(refused, StoreError::Unreadable { what: "place of an advertisement" });
    }

    #[test]
    fn what_people_type_is_never_a_wildcard() {
        assert_eq!(contains("50%_A!"), "%50!%!_a!!%");
    }
}
