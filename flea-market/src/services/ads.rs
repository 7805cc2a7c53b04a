//! Advertisements: what is sold, rented out or swapped near me, with a preview of who offers it.
//!
//! Figure 5.1 of the thesis: gateway → ads → users. Without users the list is still a list; it says
//! that the previews are missing.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use countersign_identity::UnixTime;
use countersign_sdk::{
    clock,
    inbound::{Caller, EndUser},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    fault::{Fault, no_method, no_route},
    input::{Id, Json, Query, text},
    neighbour::Neighbour,
    place::{Degrees, Place},
    services::{
        subscriptions::{Matched, NewAd},
        users::{Preview, Previews},
    },
    store::{Ad, AdStore, AdToKeep, Nearby, Taken},
};

/// Most advertisements in one list.
pub const LIST_MAX: usize = 50;
/// Most open advertisements of one seller.
pub const OPEN_ADS_MAX: i64 = 100;
/// How far "near me" goes unless somebody says otherwise.
const WITHIN_KM: u32 = 25;
const WITHIN_KM_MAX: u32 = 500;
const PRICE_CENTS_MAX: i64 = 100_000_000;

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Ads {
    /// Its own database.
    pub store: AdStore,
    /// For previews of sellers.
    pub users: Neighbour,
    /// Told of every new advertisement.
    pub subscriptions: Neighbour,
}

/// The routes of the service.
pub fn router(ads: Ads) -> Router {
    Router::new()
        .route("/ads", get(list).post(publish))
        .route("/ads/{id}", get(show).delete(remove))
        .route("/ads/{id}/buy", post(buy))
        .route("/ads/{id}/rent", post(rent))
        .route("/ads/{id}/swap", post(swap))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(Arc::new(ads))
}

/// Selling, renting out or swapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// For money, once.
    Sell,
    /// For money, by the day.
    Rent,
    /// For another thing.
    Swap,
}

impl Kind {
    /// As it stands in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sell => "sell",
            Self::Rent => "rent",
            Self::Swap => "swap",
        }
    }
}

/// The query of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    near: Option<String>,
    within_km: Option<u32>,
    kind: Option<Kind>,
    q: Option<String>,
    seller: Option<String>,
}

/// A list of advertisements.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdList {
    /// The nearest first, or the newest.
    pub ads: Vec<AdView>,
    /// Whether sellers could be looked up.
    pub previews: PreviewState,
}

/// Whether sellers could be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    /// They are there; a seller without a profile has none.
    Shown,
    /// The users service does not answer.
    Unavailable,
}

/// An advertisement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdView {
    /// Its number.
    pub id: i64,
    /// Selling, renting out or swapping.
    pub kind: Kind,
    /// One line.
    pub title: String,
    /// Some lines.
    pub description: String,
    /// `music`, `bicycles`, …
    pub category: String,
    /// The price, or the rent per day.
    pub price_cents: Option<i64>,
    /// What the seller wants for it.
    pub swap_for: Option<String>,
    /// The name of the place.
    pub town: String,
    /// Where it is.
    pub place: Degrees,
    /// How far from `near`.
    pub distance_km: Option<f64>,
    /// Where its picture is.
    pub picture: Option<String>,
    /// When it was published, in milliseconds since 1970.
    pub created_at: UnixTime,
    /// Whether somebody took it.
    pub taken: bool,
    /// Who offers it.
    pub seller: Seller,
}

/// Who offers a thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seller {
    /// Their handle.
    pub handle: String,
    /// What the users service says about them.
    pub preview: Option<Preview>,
}

/// A new advertisement, as a seller writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAdBody {
    kind: Kind,
    title: String,
    description: String,
    category: String,
    price_cents: Option<i64>,
    swap_for: Option<String>,
    town: String,
    place: Degrees,
    picture: Option<i64>,
}

/// A new advertisement, and how many were told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The advertisement.
    pub ad: AdView,
    /// How many saved searches it is what they look for; nothing if subscriptions does not answer.
    pub notified: Option<u64>,
}

/// A deal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deal {
    /// Which advertisement.
    pub ad: i64,
    /// Who took it.
    pub taken_by: String,
    /// From whom.
    pub seller: String,
    /// What it costs in all, in cents.
    pub total_cents: Option<i64>,
    /// When, in milliseconds since 1970.
    pub taken_at: UnixTime,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuyBody {}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RentBody {
    days: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwapBody {
    offer: String,
}

async fn list(
    State(ads): State<Arc<Ads>>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<AdList>, Fault> {
    let wanted = nearby(query)?;
    let found = ads.store.open_ads(&wanted).await?;
    let mut views: Vec<AdView> = found.into_iter().map(|ad| view(ad, wanted.near)).collect();
    if wanted.near.is_some() {
        let limit = wanted.within_km.map_or(f64::INFINITY, f64::from);
        views.retain(|view| view.distance_km.is_none_or(|km| km <= limit));
        views.sort_by(|a, b| a.distance_km.partial_cmp(&b.distance_km).unwrap_or(std::cmp::Ordering::Equal));
    }
    views.truncate(LIST_MAX);
    let previews = ads.add_previews(&caller, &mut views).await;
    Ok(axum::Json(AdList { ads: views, previews }))
}

async fn show(State(ads): State<Arc<Ads>>, caller: Caller, Id(id): Id) -> Result<axum::Json<AdView>, Fault> {
    let ad = ads.store.find(id).await?.ok_or_else(|| no_ad(id))?;
    let mut views = [view(ad, None)];
    ads.add_previews(&caller, &mut views).await;
    let [view] = views;
    Ok(axum::Json(view))
}

async fn publish(
    State(ads): State<Arc<Ads>>,
    caller: Caller,
    user: EndUser,
    Json(body): Json<NewAdBody>,
) -> Result<(StatusCode, axum::Json<Published>), Fault> {
    let seller = ads.store.db().recognise(&user).await?;
    if ads.store.count_of(&seller).await? >= OPEN_ADS_MAX {
        return Err(Fault::Conflict(format!("you have {OPEN_ADS_MAX} open ads: remove one first")));
    }
    let ad = ads.store.publish(acceptable(body, seller)?, clock::now()).await?;
    let notified = ads.tell_subscribers(&caller, &ad).await;
    Ok((StatusCode::CREATED, axum::Json(Published { ad: view(ad, None), notified })))
}

async fn remove(State(ads): State<Arc<Ads>>, user: EndUser, Id(id): Id) -> Result<StatusCode, Fault> {
    let person = ads.store.db().recognise(&user).await?;
    // Which people moderate is a role in a token that was verified, and the policy lets nobody else
    // come here for an ad of somebody else's.
    let is_moderator = user.roles.iter().any(|role| role == "moderator");
    if ads.store.remove(id, (!is_moderator).then_some(person.as_str())).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    match ads.store.find(id).await? {
        Some(_) => Err(Fault::NotYours("this ad is somebody else's".to_owned())),
        None => Err(no_ad(id)),
    }
}

async fn buy(
    State(ads): State<Arc<Ads>>,
    user: EndUser,
    Id(id): Id,
    Json(BuyBody {}): Json<BuyBody>,
) -> Result<axum::Json<Deal>, Fault> {
    ads.take(id, Kind::Sell, &user, "bought".to_owned(), 1).await
}

async fn rent(
    State(ads): State<Arc<Ads>>,
    user: EndUser,
    Id(id): Id,
    Json(body): Json<RentBody>,
) -> Result<axum::Json<Deal>, Fault> {
    if !(1..=365).contains(&body.days) {
        return Err(Fault::Invalid("days is not from 1 to 365".to_owned()));
    }
    ads.take(id, Kind::Rent, &user, format!("rented for {} days", body.days), i64::from(body.days)).await
}

async fn swap(
    State(ads): State<Arc<Ads>>,
    user: EndUser,
    Id(id): Id,
    Json(body): Json<SwapBody>,
) -> Result<axum::Json<Deal>, Fault> {
    let offer = text("offer", &body.offer, 200)?;
    ads.take(id, Kind::Swap, &user, format!("swapped for {offer}"), 1).await
}

impl Ads {
    /// Gives each view the preview of its seller: one call for all of them.
    async fn add_previews(&self, caller: &Caller, views: &mut [AdView]) -> PreviewState {
        let handles: Vec<&str> = views.iter().map(|view| view.seller.handle.as_str()).collect();
        let Some(path) = Previews::path(&handles) else {
            return PreviewState::Shown;
        };
        let previews: BTreeMap<String, Preview> = match self.users.get::<Previews>(caller, &path).await {
            Ok(found) => found.previews.into_iter().map(|p| (p.handle.clone(), p)).collect(),
            Err(error) => {
                tracing::warn!(%error, "ads are listed without previews of their sellers");
                return PreviewState::Unavailable;
            }
        };
        for view in views {
            view.seller.preview = previews.get(&view.seller.handle).cloned();
        }
        PreviewState::Shown
    }

    /// An ad is published whether or not somebody could be told of it.
    async fn tell_subscribers(&self, caller: &Caller, ad: &Ad) -> Option<u64> {
        let news = NewAd {
            id: ad.id,
            title: ad.content.title.clone(),
            kind: kind_of(ad),
            price_cents: ad.content.price_cents,
            place: ad.content.place.degrees(),
        };
        match self.subscriptions.post::<Matched>(caller, "/subscriptions/matches", &news).await {
            Ok(matched) => Some(matched.notified),
            Err(error) => {
                tracing::warn!(%error, ad = ad.id, "nobody was told of a new ad");
                None
            }
        }
    }

    async fn take(
        &self,
        id: i64,
        kind: Kind,
        user: &EndUser,
        note: String,
        times: i64,
    ) -> Result<axum::Json<Deal>, Fault> {
        let by = self.store.db().recognise(user).await?;
        let taken = Taken { by, at: clock::now(), note };
        let is_ours = self.store.take(id, kind.as_str(), &taken).await?;
        let ad = self.store.find(id).await?.ok_or_else(|| no_ad(id))?;
        if !is_ours {
            return Err(why_not(&ad, kind, &taken.by));
        }
        let total_cents = ad.content.price_cents.map(|price| price.saturating_mul(times));
        let Taken { by: taken_by, at: taken_at, .. } = taken;
        Ok(axum::Json(Deal { ad: id, taken_by, seller: ad.content.seller, total_cents, taken_at }))
    }
}

fn why_not(ad: &Ad, kind: Kind, person: &str) -> Fault {
    if ad.content.seller == person {
        return Fault::Conflict("this ad is your own".to_owned());
    }
    if ad.content.kind != kind.as_str() {
        return Fault::Conflict(format!("this ad is not to {}, it is to {}", kind.as_str(), ad.content.kind));
    }
    Fault::Conflict("somebody else was faster".to_owned())
}

fn no_ad(id: i64) -> Fault {
    Fault::NotFound(format!("there is no ad {id}"))
}

fn nearby(query: ListQuery) -> Result<Nearby, Fault> {
    let near = match query.near.as_deref().map(Place::parse) {
        Some(None) => {
            return Err(Fault::Malformed(
                "near is not latitude,longitude in degrees: 48.37,14.51".to_owned(),
            ));
        }
        Some(place) => place,
        None => None,
    };
    if query.within_km.is_some_and(|km| !(1..=WITHIN_KM_MAX).contains(&km)) {
        return Err(Fault::Invalid(format!("within_km is not from 1 to {WITHIN_KM_MAX}")));
    }
    if near.is_none() && query.within_km.is_some() {
        return Err(Fault::Invalid("within_km needs near".to_owned()));
    }
    Ok(Nearby {
        near,
        within_km: near.map(|_| query.within_km.unwrap_or(WITHIN_KM)),
        kind: query.kind.map(|kind| kind.as_str().to_owned()),
        words: query.q.map(|words| text("q", &words, 100)).transpose()?,
        seller: query.seller.map(|seller| text("seller", &seller, 64)).transpose()?,
    })
}

fn acceptable(body: NewAdBody, seller: String) -> Result<AdToKeep, Fault> {
    let Degrees { latitude, longitude } = body.place;
    let place = Place::from_degrees(latitude, longitude)
        .ok_or_else(|| Fault::Invalid("place is not on the map".to_owned()))?;
    let is_price = |price: i64| (0..=PRICE_CENTS_MAX).contains(&price);
    match (body.kind, body.price_cents, &body.swap_for) {
        (Kind::Swap, None, Some(_)) => {}
        (Kind::Sell | Kind::Rent, Some(price), None) if is_price(price) => {}
        (Kind::Swap, ..) => return Err(Fault::Invalid("a swap has swap_for and no price_cents".to_owned())),
        (Kind::Sell | Kind::Rent, ..) => {
            let message = format!("price_cents is not from 0 to {PRICE_CENTS_MAX}, or there is a swap_for");
            return Err(Fault::Invalid(message));
        }
    }
    if body.picture.is_some_and(|picture| picture < 1) {
        return Err(Fault::Invalid("picture is not a number from 1".to_owned()));
    }
    Ok(AdToKeep {
        seller,
        kind: body.kind.as_str().to_owned(),
        title: text("title", &body.title, 80)?,
        description: text("description", &body.description, 2000)?,
        category: text("category", &body.category, 40)?,
        price_cents: body.price_cents,
        swap_for: body.swap_for.map(|wish| text("swap_for", &wish, 120)).transpose()?,
        town: text("town", &body.town, 80)?,
        place,
        picture: body.picture,
    })
}

fn view(ad: Ad, near: Option<Place>) -> AdView {
    let kind = kind_of(&ad);
    let Ad { id, content, created_at, taken } = ad;
    AdView {
        id,
        kind,
        title: content.title,
        description: content.description,
        category: content.category,
        price_cents: content.price_cents,
        swap_for: content.swap_for,
        town: content.town,
        place: content.place.degrees(),
        distance_km: near.map(|near| tenths(near.distance_km(content.place))),
        picture: content.picture.map(|picture| format!("/media/{picture}")),
        created_at,
        taken: taken.is_some(),
        seller: Seller { handle: content.seller, preview: None },
    }
}

fn kind_of(ad: &Ad) -> Kind {
    match ad.content.kind.as_str() {
        "rent" => Kind::Rent,
        "swap" => Kind::Swap,
        _ => Kind::Sell,
    }
}

fn tenths(km: f64) -> f64 {
    (km * 10.0).round() / 10.0
}
