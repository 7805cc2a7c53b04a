//! What is there on the first day: people around Linz, what they offer, and what they look for.
//!
//! Alice, Bob and the moderator have accounts at the authority and meet their own things here; the
//! others only sell.

mod people;
mod pictures;
mod things;

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_sdk::clock;

use crate::{
    place::Place,
    store::{
        AdStore, AdToKeep, ChatStore, MediaStore, Picture, Profile, ReportStore, SearchToKeep, StoreError,
        SubscriptionStore, UserStore,
    },
};

const DAY: Duration = Duration::from_hours(24);

/// Advertisements, if there never was one.
pub(crate) async fn ads(store: &AdStore) -> Result<(), StoreError> {
    if !store.is_new().await? {
        return Ok(());
    }
    for (position, thing) in things::THINGS.iter().enumerate() {
        let place = Place::parse(thing.place).ok_or(StoreError::Unreadable { what: "place of a seed" })?;
        let ad = AdToKeep {
            seller: thing.seller.to_owned(),
            kind: thing.kind.as_str().to_owned(),
            title: thing.title.to_owned(),
            description: thing.description.to_owned(),
            category: thing.category.to_owned(),
            price_cents: thing.price_cents,
            swap_for: thing.swap_for.map(str::to_owned),
            town: thing.town.to_owned(),
            place,
            picture: pictures::number_of(thing.category),
        };
        store.publish(ad, days_ago(things::THINGS.len().saturating_sub(position))).await?;
    }
    Ok(())
}

/// Profiles, if there is none.
pub(crate) async fn users(store: &UserStore) -> Result<(), StoreError> {
    if !store.is_new().await? {
        return Ok(());
    }
    for person in &people::PEOPLE {
        let profile = Profile {
            handle: person.handle.to_owned(),
            display_name: person.name.to_owned(),
            town: person.town.to_owned(),
            about: person.about.to_owned(),
            rating: person.rating,
            deals: person.deals,
            joined_at: days_ago(person.days),
        };
        store.write(&profile).await?;
    }
    Ok(())
}

/// Pictures, if there never was one: one for each category.
pub(crate) async fn media(store: &MediaStore) -> Result<(), StoreError> {
    if !store.is_new().await? {
        return Ok(());
    }
    for bytes in pictures::all() {
        let picture = Picture { owner: "market".to_owned(), content_type: "image/png".to_owned(), bytes };
        store.add(&picture, days_ago(30)).await?;
    }
    Ok(())
}

/// A conversation, if nobody ever wrote.
pub(crate) async fn chat(store: &ChatStore) -> Result<(), StoreError> {
    if !store.is_new().await? {
        return Ok(());
    }
    for (from, to, text) in people::MESSAGES {
        store.write(from, to, text, days_ago(1)).await?;
    }
    Ok(())
}

/// A saved search, if there never was one.
pub(crate) async fn subscriptions(store: &SubscriptionStore) -> Result<(), StoreError> {
    if !store.is_new().await? {
        return Ok(());
    }
    let search = SearchToKeep {
        owner: "alice".to_owned(),
        words: Some("bicycle".to_owned()),
        kind: None,
        price_cents_max: Some(20_000),
        near: Place::parse("48.37,14.51").map(|place| (place, 30)),
    };
    store.save(search, days_ago(7)).await?;
    Ok(())
}

/// A report, if there never was one.
pub(crate) async fn reports(store: &ReportStore) -> Result<(), StoreError> {
    if !store.is_new().await? {
        return Ok(());
    }
    let reason = "The same accordion is offered in Wels under another name.";
    store.file(9, Some("Weltmeister accordion, 80 bass"), "alice", reason, days_ago(2)).await?;
    Ok(())
}

fn days_ago(days: usize) -> UnixTime {
    let days = u32::try_from(days).unwrap_or(u32::MAX);
    clock::now().saturating_sub(DAY.saturating_mul(days))
}
