//! Advertisements: what is sold, rented out or swapped near me, with a preview of who offers it.
//!
//! Figure 5.1 of the thesis: gateway → ads → users. Without users the list is still a list; it says
//! that the previews are missing.

mod shape;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    asking::{Caller, EndUser},
    fault::{Fault, no_method, no_route},
    input::{Id, Json, Query, text},
    neighbour::Neighbour,
    services::{
        subscriptions::{Matched, NewAd},
        users::{Preview, Previews},
    },
    store::{Ad, AdStore, Taken},
};
use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use countersign_sdk::clock;
use http::StatusCode;

pub use shape::{AdList, AdView, Deal, Kind, PreviewState, Published, Seller};
use shape::{BuyBody, ListQuery, NewAdBody, RentBody, SwapBody, acceptable, kind_of, nearby, view};

/// Most advertisements in one list.
pub const LIST_MAX: usize = 50;
/// Most open advertisements of one seller.
pub const OPEN_ADS_MAX: i64 = 100;

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
