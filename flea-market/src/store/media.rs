//! Pictures.

use base64::{Engine, engine::general_purpose::STANDARD};
use countersign_identity::UnixTime;
use sqlx::Row;

use super::{Db, StoreError};

/// The pictures of everybody.
#[derive(Clone, Debug)]
pub struct MediaStore(Db);

/// A small picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Whose it is.
    pub owner: String,
    /// `image/png` or `image/jpeg`.
    pub content_type: String,
    /// The file.
    pub bytes: Vec<u8>,
}

impl MediaStore {
    /// Opens the database of the media service.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        Ok(Self(Db::open(address, "media", include_str!("media.sql")).await?))
    }

    /// What every service keeps.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.0
    }

    /// Adds a picture and gives it a number.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn add(&self, picture: &Picture, now: UnixTime) -> Result<i64, StoreError> {
        let mut transaction = self.0.begin().await?;
        let id = Db::next_number(&mut transaction, "pictures").await?;
        let add =
            "INSERT INTO pictures (id, owner, content_type, bytes, added_at) VALUES ($1, $2, $3, $4, $5)";
        sqlx::query(add)
            .bind(id)
            .bind(&picture.owner)
            .bind(&picture.content_type)
            .bind(STANDARD.encode(&picture.bytes))
            .bind(now.millis())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// One picture.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, id: i64) -> Result<Option<Picture>, StoreError> {
        let one = sqlx::query("SELECT owner, content_type, bytes FROM pictures WHERE id = $1").bind(id);
        let Some(row) = one.fetch_optional(self.0.reader()).await? else {
            return Ok(None);
        };
        let bytes = STANDARD.decode(row.try_get::<String, _>("bytes")?);
        let bytes = bytes.map_err(|_| StoreError::Unreadable { what: "bytes of a picture" })?;
        Ok(Some(Picture { owner: row.try_get("owner")?, content_type: row.try_get("content_type")?, bytes }))
    }

    /// How many pictures a person has.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_of(&self, owner: &str) -> Result<i64, StoreError> {
        let count = "SELECT COUNT(*) FROM pictures WHERE owner = $1";
        Ok(sqlx::query_scalar(count).bind(owner).fetch_one(self.0.reader()).await?)
    }

    /// Whether there never was a picture.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        self.0.is_unused("pictures").await
    }
}
