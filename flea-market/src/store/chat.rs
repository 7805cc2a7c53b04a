//! Conversations.

use countersign_identity::UnixTime;
use sqlx::{Row, any::AnyRow};

use super::{Db, StoreError};

/// Most conversations in one answer.
const CONVERSATIONS_MAX: i64 = 100;
/// Most messages in one answer: the newest.
const MESSAGES_MAX: i64 = 200;

/// The conversations of everybody.
#[derive(Clone, Debug)]
pub struct ChatStore(Db);

/// Two people who write to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its number.
    pub id: i64,
    /// One of them.
    pub one: String,
    /// The other.
    pub other: String,
    /// When somebody last wrote.
    pub written_at: UnixTime,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number within the conversation, from 1.
    pub number: i64,
    /// Who wrote it.
    pub author: String,
    /// What they wrote.
    pub text: String,
    /// When.
    pub written_at: UnixTime,
}

impl ChatStore {
    /// Opens the database of the chat service.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        Ok(Self(Db::open(address, "chat", include_str!("chat.sql")).await?))
    }

    /// What every service keeps.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.0
    }

    /// The conversations of a person, the one that was written to last first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn conversations(&self, person: &str) -> Result<Vec<Conversation>, StoreError> {
        let mine = "SELECT * FROM conversations WHERE one = $1 OR other = $1
                    ORDER BY written_at DESC, id DESC LIMIT $2";
        let rows = sqlx::query(mine).bind(person).bind(CONVERSATIONS_MAX).fetch_all(self.0.reader()).await?;
        rows.iter().map(conversation).collect()
    }

    /// One conversation, if this person takes part in it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, id: i64, person: &str) -> Result<Option<Conversation>, StoreError> {
        let mine = "SELECT * FROM conversations WHERE id = $1 AND (one = $2 OR other = $2)";
        let row = sqlx::query(mine).bind(id).bind(person).fetch_optional(self.0.reader()).await?;
        row.as_ref().map(conversation).transpose()
    }

    /// The newest messages of a conversation, in the order in which they were written.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn messages(&self, id: i64) -> Result<Vec<Message>, StoreError> {
        let newest = "SELECT * FROM messages WHERE conversation = $1 ORDER BY number DESC LIMIT $2";
        let rows = sqlx::query(newest).bind(id).bind(MESSAGES_MAX).fetch_all(self.0.reader()).await?;
        rows.iter().rev().map(message).collect()
    }

    /// Writes from one person to another, in the one conversation that they have.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn write(
        &self,
        from: &str,
        to: &str,
        text: &str,
        now: UnixTime,
    ) -> Result<(Conversation, Message), StoreError> {
        let (one, other) = if from < to { (from, to) } else { (to, from) };
        let mut transaction = self.0.begin().await?;
        let fresh = Db::next_number(&mut transaction, "conversations").await?;
        let upsert = "INSERT INTO conversations (id, one, other, written_at) VALUES ($1, $2, $3, $4)
                      ON CONFLICT (one, other) DO UPDATE SET written_at = excluded.written_at RETURNING *";
        let row = sqlx::query(upsert).bind(fresh).bind(one).bind(other).bind(now.millis());
        let conversation = conversation(&row.fetch_one(&mut *transaction).await?)?;
        // The row of the conversation is locked by now, so numbers have no gaps and no doubles.
        let append = "INSERT INTO messages (conversation, number, author, text, written_at)
            SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4 FROM messages WHERE conversation = $1
            RETURNING *";
        let row = sqlx::query(append).bind(conversation.id).bind(from).bind(text).bind(now.millis());
        let message = message(&row.fetch_one(&mut *transaction).await?)?;
        transaction.commit().await?;
        Ok((conversation, message))
    }

    /// Whether nobody ever wrote.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        self.0.is_unused("conversations").await
    }
}

fn conversation(row: &AnyRow) -> Result<Conversation, StoreError> {
    Ok(Conversation {
        id: row.try_get("id")?,
        one: row.try_get("one")?,
        other: row.try_get("other")?,
        written_at: UnixTime::from_millis(row.try_get("written_at")?),
    })
}

fn message(row: &AnyRow) -> Result<Message, StoreError> {
    Ok(Message {
        number: row.try_get("number")?,
        author: row.try_get("author")?,
        text: row.try_get("text")?,
        written_at: UnixTime::from_millis(row.try_get("written_at")?),
    })
}
