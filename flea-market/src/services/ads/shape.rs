//! What is said about advertisements in JSON, and what of it is acceptable.

use countersign_identity::UnixTime;
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    input::text,
    place::{Degrees, Place},
    services::users::Preview,
    store::{Ad, AdToKeep, Nearby},
};

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
pub(super) struct ListQuery {
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
pub(super) struct NewAdBody {
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
pub(super) struct BuyBody {}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RentBody {
    pub(super) days: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapBody {
    pub(super) offer: String,
}

pub(super) fn nearby(query: ListQuery) -> Result<Nearby, Fault> {
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

pub(super) fn acceptable(body: NewAdBody, seller: String) -> Result<AdToKeep, Fault> {
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

pub(super) fn view(ad: Ad, near: Option<Place>) -> AdView {
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

pub(super) fn kind_of(ad: &Ad) -> Kind {
    match ad.content.kind.as_str() {
        "rent" => Kind::Rent,
        "swap" => Kind::Swap,
        _ => Kind::Sell,
    }
}

fn tenths(km: f64) -> f64 {
    (km * 10.0).round() / 10.0
}

/// How far "near me" goes unless somebody says otherwise.
const WITHIN_KM: u32 = 25;
const WITHIN_KM_MAX: u32 = 500;
const PRICE_CENTS_MAX: i64 = 100_000_000;
