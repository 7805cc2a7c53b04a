//! Profiles of people, and previews of them for other services.

use std::{collections::BTreeSet, sync::Arc};

use axum::{Router, extract::State, routing::get};
use countersign_identity::UnixTime;
use countersign_sdk::clock;
use serde::{Deserialize, Serialize};

use crate::{
    asking::EndUser,
    fault::{Fault, no_method, no_route},
    input::{Handle, Json, Query, text},
    store::{Profile, UserStore},
};

/// Most previews in one answer.
pub const PREVIEWS_MAX: usize = 50;
/// Longest handle, in characters.
const HANDLE_CHARS_MAX: usize = 64;

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Users {
    /// Its own database.
    pub store: UserStore,
}

/// The routes of the service.
pub fn router(users: Users) -> Router {
    Router::new()
        .route("/users/me", get(me).put(write_me))
        .route("/users/previews", get(previews))
        .route("/users/{handle}", get(show))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(Arc::new(users))
}

/// A profile as others see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileView {
    /// Unique, and for good.
    pub handle: String,
    /// What others call them.
    pub display_name: String,
    /// Where they live.
    pub town: String,
    /// What they say about themselves.
    pub about: String,
    /// One to five stars; nothing before the first deal.
    pub rating: Option<f64>,
    /// How many deals they have made.
    pub deals: i64,
    /// Since when they are here, in milliseconds since 1970.
    pub joined_at: UnixTime,
}

/// The part of a profile that stands beside an advertisement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Unique, and for good.
    pub handle: String,
    /// What others call them.
    pub display_name: String,
    /// Where they live.
    pub town: String,
    /// One to five stars; nothing before the first deal.
    pub rating: Option<f64>,
    /// How many deals they have made.
    pub deals: i64,
}

/// Previews of several people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Previews {
    /// Of those who have a profile.
    pub previews: Vec<Preview>,
}

impl Previews {
    /// Where the previews of these people are; nothing if nobody is asked for.
    #[must_use]
    pub fn path(handles: &[&str]) -> Option<String> {
        let names: BTreeSet<&str> = handles.iter().copied().filter(|handle| !handle.contains(',')).collect();
        let names: Vec<String> = names.into_iter().take(PREVIEWS_MAX).map(encode).collect();
        (!names.is_empty()).then(|| format!("/users/previews?of={}", names.join(",")))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviewQuery {
    of: String,
}

/// What people say about themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileBody {
    display_name: String,
    town: String,
    about: String,
}

async fn me(State(users): State<Arc<Users>>, user: EndUser) -> Result<axum::Json<ProfileView>, Fault> {
    let handle = users.store.db().recognise(&user).await?;
    if let Some(profile) = users.store.find(&handle).await? {
        return Ok(axum::Json(view(profile)));
    }
    let profile = fresh(handle, clock::now());
    users.store.write(&profile).await?;
    Ok(axum::Json(view(profile)))
}

async fn write_me(
    State(users): State<Arc<Users>>,
    user: EndUser,
    Json(body): Json<ProfileBody>,
) -> Result<axum::Json<ProfileView>, Fault> {
    let display_name = text("display_name", &body.display_name, 60)?;
    let town = text("town", &body.town, 80)?;
    let about = if body.about.is_empty() { String::new() } else { text("about", &body.about, 500)? };
    let handle = users.store.db().recognise(&user).await?;
    let before = users.store.find(&handle).await?.unwrap_or_else(|| fresh(handle, clock::now()));
    let profile = Profile { display_name, town, about, ..before };
    users.store.write(&profile).await?;
    Ok(axum::Json(view(profile)))
}

async fn show(
    State(users): State<Arc<Users>>,
    Handle(handle): Handle,
) -> Result<axum::Json<ProfileView>, Fault> {
    let handle = text("handle", &handle, HANDLE_CHARS_MAX)?;
    let profile = users.store.find(&handle).await?;
    let profile = profile.ok_or_else(|| Fault::NotFound(format!("there is no profile of {handle:?}")))?;
    Ok(axum::Json(view(profile)))
}

async fn previews(
    State(users): State<Arc<Users>>,
    Query(query): Query<PreviewQuery>,
) -> Result<axum::Json<Previews>, Fault> {
    let handles: Vec<&str> = query.of.split(',').collect();
    if handles.len() > PREVIEWS_MAX {
        return Err(Fault::Invalid(format!("of names more than {PREVIEWS_MAX} people")));
    }
    let profiles = users.store.find_all(&handles).await?;
    Ok(axum::Json(Previews { previews: profiles.into_iter().map(preview).collect() }))
}

fn fresh(handle: String, now: UnixTime) -> Profile {
    Profile {
        display_name: handle.clone(),
        handle,
        town: String::new(),
        about: String::new(),
        rating: None,
        deals: 0,
        joined_at: now,
    }
}

fn view(profile: Profile) -> ProfileView {
    let Profile { handle, display_name, town, about, rating, deals, joined_at } = profile;
    ProfileView { handle, display_name, town, about, rating: rating.map(stars), deals, joined_at }
}

fn preview(profile: Profile) -> Preview {
    let Profile { handle, display_name, town, rating, deals, .. } = profile;
    Preview { handle, display_name, town, rating: rating.map(stars), deals }
}

fn stars(tenths: i64) -> f64 {
    f64::from(i32::try_from(tenths).unwrap_or(0)) / 10.0
}

/// A name in a query: everything but unreserved characters is percent encoded (RFC 3986 section 2.1).
fn encode(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte))
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_path_of_previews_names_each_person_once_in_plain_or_encoded_form() {
        let path = Previews::path(&["bob", "ané b", "bob", "a,b", "x&y=z"]).unwrap();
        assert_eq!(path, "/users/previews?of=an%C3%A9%20b,bob,x%26y%3Dz");
        assert_eq!(Previews::path(&[]), None);
    }

    #[test]
    fn the_path_of_previews_is_bounded() {
        let many: Vec<String> = (0..1000).map(|i| format!("u{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(Previews::path(&many).unwrap().split(',').count(), PREVIEWS_MAX);
    }
}
