//! Saved searches: whoever saved one is told when an advertisement is what they look for.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    routing::{delete, get, post},
};
use countersign_identity::UnixTime;
use countersign_sdk::clock;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    asking::EndUser,
    fault::{Fault, no_method, no_route},
    input::{Id, Json, text},
    place::{Degrees, Place},
    services::ads::Kind,
    store::{Notification, Search, SearchToKeep, SubscriptionStore},
};

/// Most saved searches of one person.
pub const SEARCHES_MAX: usize = 20;
const WITHIN_KM_MAX: u32 = 500;

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    /// Its own database.
    pub store: SubscriptionStore,
}

/// The routes of the service.
pub fn router(subscriptions: Subscriptions) -> Router {
    Router::new()
        .route("/subscriptions", get(list).post(save))
        .route("/subscriptions/{id}", delete(forget))
        .route("/subscriptions/notifications", get(notifications))
        .route("/subscriptions/matches", post(matches))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(Arc::new(subscriptions))
}

/// A search, as somebody saves it. What is absent does not count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    q: Option<String>,
    kind: Option<Kind>,
    price_cents_max: Option<i64>,
    near: Option<Degrees>,
    within_km: Option<u32>,
}

/// A saved search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchView {
    /// Its number.
    pub id: i64,
    /// Text in the title.
    pub q: Option<String>,
    /// `sell`, `rent` or `swap`.
    pub kind: Option<String>,
    /// The most that it may cost.
    pub price_cents_max: Option<i64>,
    /// Where.
    pub near: Option<Degrees>,
    /// How far from there.
    pub within_km: Option<u32>,
    /// Since when, in milliseconds since 1970.
    pub created_at: UnixTime,
}

/// The saved searches of a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchList {
    /// In the order in which they were saved.
    pub subscriptions: Vec<SearchView>,
}

/// What saved searches found for a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotificationList {
    /// The newest first.
    pub notifications: Vec<NotificationView>,
}

/// What a saved search found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotificationView {
    /// Its number among those of the same person.
    pub number: i64,
    /// Which search.
    pub subscription: i64,
    /// Which advertisement.
    pub ad: i64,
    /// Its title.
    pub title: String,
    /// When, in milliseconds since 1970.
    pub created_at: UnixTime,
}

/// What ads tells of a new advertisement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAd {
    /// Its number.
    pub id: i64,
    /// One line.
    pub title: String,
    /// Selling, renting out or swapping.
    pub kind: Kind,
    /// What it costs.
    pub price_cents: Option<i64>,
    /// Where it is.
    pub place: Degrees,
}

/// How many were told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Matched {
    /// Notifications that are new.
    pub notified: u64,
}

async fn list(
    State(subscriptions): State<Arc<Subscriptions>>,
    user: EndUser,
) -> Result<axum::Json<SearchList>, Fault> {
    let owner = subscriptions.store.db().recognise(&user).await?;
    let searches = subscriptions.store.searches_of(&owner).await?;
    Ok(axum::Json(SearchList { subscriptions: searches.into_iter().map(view).collect() }))
}

async fn save(
    State(subscriptions): State<Arc<Subscriptions>>,
    user: EndUser,
    Json(body): Json<SearchBody>,
) -> Result<(StatusCode, axum::Json<SearchView>), Fault> {
    let owner = subscriptions.store.db().recognise(&user).await?;
    if subscriptions.store.searches_of(&owner).await?.len() >= SEARCHES_MAX {
        return Err(Fault::Conflict(format!("you have {SEARCHES_MAX} saved searches: delete one first")));
    }
    let search = subscriptions.store.save(acceptable(body, owner)?, clock::now()).await?;
    Ok((StatusCode::CREATED, axum::Json(view(search))))
}

async fn forget(
    State(subscriptions): State<Arc<Subscriptions>>,
    user: EndUser,
    Id(id): Id,
) -> Result<StatusCode, Fault> {
    let owner = subscriptions.store.db().recognise(&user).await?;
    if subscriptions.store.delete(id, &owner).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Fault::NotFound(format!("you have no saved search {id}")))
}

async fn notifications(
    State(subscriptions): State<Arc<Subscriptions>>,
    user: EndUser,
) -> Result<axum::Json<NotificationList>, Fault> {
    let owner = subscriptions.store.db().recognise(&user).await?;
    let found = subscriptions.store.notifications_of(&owner).await?;
    Ok(axum::Json(NotificationList { notifications: found.into_iter().map(notification).collect() }))
}

/// Called by ads, and by nobody else: the policy sees to that.
async fn matches(
    State(subscriptions): State<Arc<Subscriptions>>,
    user: EndUser,
    Json(ad): Json<NewAd>,
) -> Result<axum::Json<Matched>, Fault> {
    let place = place_of(ad.place)?;
    let candidates = subscriptions.store.candidates(ad.kind.as_str(), ad.price_cents).await?;
    let publisher = subscriptions.store.db().recognise(&user).await?;
    let title = text("title", &ad.title, 80)?;
    let wanted: Vec<Search> = candidates
        .into_iter()
        .filter(|search| search.content.owner != publisher && is_wanted(&search.content, &title, place))
        .collect();
    let notified = subscriptions.store.notify(&wanted, ad.id, &title, clock::now()).await?;
    Ok(axum::Json(Matched { notified }))
}

fn is_wanted(search: &SearchToKeep, title: &str, place: Place) -> bool {
    let has_words = search.words.as_ref().is_none_or(|words| title.to_lowercase().contains(words));
    let is_near = search.near.is_none_or(|(center, km)| center.distance_km(place) <= f64::from(km));
    has_words && is_near
}

fn acceptable(body: SearchBody, owner: String) -> Result<SearchToKeep, Fault> {
    let near = match (body.near, body.within_km) {
        (None, None) => None,
        (Some(near), Some(km)) if (1..=WITHIN_KM_MAX).contains(&km) => Some((place_of(near)?, km)),
        _ => {
            let message = format!("near and within_km (1 to {WITHIN_KM_MAX}) belong together");
            return Err(Fault::Invalid(message));
        }
    };
    if body.price_cents_max.is_some_and(|price| price < 0) {
        return Err(Fault::Invalid("price_cents_max is below 0".to_owned()));
    }
    let words = body.q.map(|words| text("q", &words, 80)).transpose()?.map(|words| words.to_lowercase());
    if words.is_none() && body.kind.is_none() && body.price_cents_max.is_none() && near.is_none() {
        return Err(Fault::Invalid("search is empty: give q, kind, price_cents_max or near".to_owned()));
    }
    let kind = body.kind.map(|kind| kind.as_str().to_owned());
    Ok(SearchToKeep { owner, words, kind, price_cents_max: body.price_cents_max, near })
}

fn place_of(degrees: Degrees) -> Result<Place, Fault> {
    Place::from_degrees(degrees.latitude, degrees.longitude)
        .ok_or_else(|| Fault::Invalid("place is not on the map".to_owned()))
}

fn view(search: Search) -> SearchView {
    let Search { id, content, created_at } = search;
    SearchView {
        id,
        q: content.words,
        kind: content.kind,
        price_cents_max: content.price_cents_max,
        near: content.near.map(|(place, _)| place.degrees()),
        within_km: content.near.map(|(_, km)| km),
        created_at,
    }
}

fn notification(notification: Notification) -> NotificationView {
    let Notification { number, search, ad, title, created_at } = notification;
    NotificationView { number, subscription: search, ad, title, created_at }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn search(words: Option<&str>, near: Option<(&str, u32)>) -> SearchToKeep {
        let near = near.map(|(place, km)| (Place::parse(place).unwrap(), km));
        let words = words.map(str::to_owned);
        SearchToKeep { owner: "alice".into(), words, kind: None, price_cents_max: None, near }
    }

    #[test]
    fn a_search_finds_words_in_whatever_case_and_things_nearby() {
        let linz = Place::parse("48.3064,14.2858").unwrap();
        assert!(is_wanted(&search(Some("fahrrad"), None), "Puch Fahrrad, 1978", linz));
        assert!(!is_wanted(&search(Some("gitarre"), None), "Puch Fahrrad, 1978", linz));
        assert!(is_wanted(&search(None, Some(("48.37,14.51", 20))), "anything", linz));
        assert!(!is_wanted(&search(None, Some(("48.37,14.51", 10))), "anything", linz));
    }

    #[test]
    fn an_empty_search_would_match_everything_and_is_refused() {
        let body = SearchBody { q: None, kind: None, price_cents_max: None, near: None, within_km: None };
        assert!(matches!(acceptable(body, "alice".into()), Err(Fault::Invalid(_))));
    }
}
