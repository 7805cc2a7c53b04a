//! Messages between two people.

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use countersign_identity::UnixTime;
use countersign_sdk::clock;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    asking::{Caller, EndUser},
    fault::{Fault, no_method, no_route},
    input::{Id, Json, text},
    neighbour::Neighbour,
    services::users::Previews,
    store::{ChatStore, Conversation, Message},
};

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Its own database.
    pub store: ChatStore,
    /// Knows whether somebody exists.
    pub users: Neighbour,
}

/// The routes of the service.
pub fn router(chat: Chat) -> Router {
    Router::new()
        .route("/chats", get(list).post(write))
        .route("/chats/{id}", get(show))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(Arc::new(chat))
}

/// A message, as somebody writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageBody {
    to: String,
    text: String,
}

/// The conversations of a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChatList {
    /// The one that was written to last first.
    pub chats: Vec<ChatView>,
}

/// A conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChatView {
    /// Its number.
    pub id: i64,
    /// The other person.
    pub with: String,
    /// When somebody last wrote, in milliseconds since 1970.
    pub written_at: UnixTime,
}

/// A conversation and its newest messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Thread {
    /// The conversation.
    pub chat: ChatView,
    /// In the order in which they were written.
    pub messages: Vec<MessageView>,
}

/// A message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageView {
    /// Its number within the conversation.
    pub number: i64,
    /// Who wrote it.
    pub author: String,
    /// What they wrote.
    pub text: String,
    /// When, in milliseconds since 1970.
    pub written_at: UnixTime,
}

async fn list(State(chat): State<Arc<Chat>>, user: EndUser) -> Result<axum::Json<ChatList>, Fault> {
    let person = chat.store.db().recognise(&user).await?;
    let conversations = chat.store.conversations(&person).await?;
    Ok(axum::Json(ChatList { chats: conversations.into_iter().map(|c| view(c, &person)).collect() }))
}

async fn show(State(chat): State<Arc<Chat>>, user: EndUser, Id(id): Id) -> Result<axum::Json<Thread>, Fault> {
    let person = chat.store.db().recognise(&user).await?;
    // Whether it exists is nobody else's business.
    let conversation = chat.store.find(id, &person).await?;
    let conversation = conversation.ok_or_else(|| Fault::NotFound(format!("you have no chat {id}")))?;
    let messages = chat.store.messages(id).await?;
    let messages = messages.into_iter().map(message).collect();
    Ok(axum::Json(Thread { chat: view(conversation, &person), messages }))
}

async fn write(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    user: EndUser,
    Json(body): Json<MessageBody>,
) -> Result<(StatusCode, axum::Json<Thread>), Fault> {
    let from = chat.store.db().recognise(&user).await?;
    let (to, words) = (text("to", &body.to, 64)?, text("text", &body.text, 2000)?);
    if from == to {
        return Err(Fault::Invalid("to is yourself".to_owned()));
    }
    chat.must_exist(&caller, &to).await?;
    let (conversation, written) = chat.store.write(&from, &to, &words, clock::now()).await?;
    let thread = Thread { chat: view(conversation, &from), messages: vec![message(written)] };
    Ok((StatusCode::CREATED, axum::Json(thread)))
}

impl Chat {
    /// Nobody writes to a name that is not there, so without users nobody writes.
    async fn must_exist(&self, caller: &Caller, handle: &str) -> Result<(), Fault> {
        let nobody = || Fault::Invalid(format!("there is nobody called {handle:?}"));
        let path = Previews::path(&[handle]).ok_or_else(nobody)?;
        let found = self.users.get::<Previews>(caller, &path).await.map_err(|error| {
            tracing::warn!(%error, "a message was not accepted because users does not answer");
            Fault::Unavailable { service: "users" }
        })?;
        if found.previews.iter().any(|preview| preview.handle == handle) { Ok(()) } else { Err(nobody()) }
    }
}

fn view(conversation: Conversation, person: &str) -> ChatView {
    let Conversation { id, one, other, written_at } = conversation;
    ChatView { id, with: if one == person { other } else { one }, written_at }
}

fn message(message: Message) -> MessageView {
    let Message { number, author, text, written_at } = message;
    MessageView { number, author, text, written_at }
}
