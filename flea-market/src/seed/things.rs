//! Things.

use crate::services::ads::Kind;

/// Something that somebody offers.
pub(super) struct Thing {
    pub(super) seller: &'static str,
    pub(super) kind: Kind,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) category: &'static str,
    pub(super) price_cents: Option<i64>,
    pub(super) swap_for: Option<&'static str>,
    pub(super) town: &'static str,
    pub(super) place: &'static str,
}

const fn sell(
    seller: &'static str,
    title: &'static str,
    description: &'static str,
    category: &'static str,
    price_cents: i64,
    (town, place): (&'static str, &'static str),
) -> Thing {
    let (kind, price_cents) = (Kind::Sell, Some(price_cents));
    Thing { seller, kind, title, description, category, price_cents, swap_for: None, town, place }
}

const fn rent(
    seller: &'static str,
    title: &'static str,
    description: &'static str,
    category: &'static str,
    cents_per_day: i64,
    (town, place): (&'static str, &'static str),
) -> Thing {
    let (kind, price_cents) = (Kind::Rent, Some(cents_per_day));
    Thing { seller, kind, title, description, category, price_cents, swap_for: None, town, place }
}

const fn swap(
    seller: &'static str,
    title: &'static str,
    description: &'static str,
    category: &'static str,
    swap_for: &'static str,
    (town, place): (&'static str, &'static str),
) -> Thing {
    let (kind, swap_for) = (Kind::Swap, Some(swap_for));
    Thing { seller, kind, title, description, category, price_cents: None, swap_for, town, place }
}

const GALLNEUKIRCHEN: (&str, &str) = ("Gallneukirchen", "48.3536,14.4161");
const ENGERWITZDORF: (&str, &str) = ("Engerwitzdorf", "48.3407,14.4306");
const HAGENBERG: (&str, &str) = ("Hagenberg", "48.3674,14.5163");
const PREGARTEN: (&str, &str) = ("Pregarten", "48.3556,14.5306");
const LINZ: (&str, &str) = ("Linz", "48.3064,14.2858");
const URFAHR: (&str, &str) = ("Linz-Urfahr", "48.3167,14.2833");
const ALTENBERG: (&str, &str) = ("Altenberg bei Linz", "48.3733,14.3494");
const OTTENSHEIM: (&str, &str) = ("Ottensheim", "48.3328,14.1747");
const STEYREGG: (&str, &str) = ("Steyregg", "48.2850,14.3700");
const FREISTADT: (&str, &str) = ("Freistadt", "48.5119,14.5047");
const WELS: (&str, &str) = ("Wels", "48.1575,14.0289");

#[rustfmt::skip]
pub(super) const THINGS: [Thing; 30] = [
    sell("bob", "Puch touring bicycle, 1978", "Steel frame, 57 cm, twelve gears. New front brake and tyres, a few honest scratches.", "bicycles", 18_000, GALLNEUKIRCHEN),
    sell("katharina", "Wooden children's bicycle", "For the first metres without pedals. Two children learned on it.", "bicycles", 2_500, ENGERWITZDORF),
    sell("theresia", "Joiner's bench, beech", "Two metres long, both vices work. Bring two strong people.", "tools", 22_000, PREGARTEN),
    sell("jakob", "Desk lamp with a heavy foot", "Black, 1960s, rewired by an electrician.", "furniture", 3_500, LINZ),
    rent("samira", "Cargo bicycle with rain cover", "Takes two children or a washing machine. By the day, helmet included.", "bicycles", 2_000, URFAHR),
    swap("nora", "Twelve jars of quince jelly", "From our own tree, this autumn.", "kitchen", "a jar of honey for every two", STEYREGG),
    sell("petr", "Zenit-E with Helios 44-2", "Shutter sounds right at all speeds, light meter answers to light.", "cameras", 7_900, FREISTADT),
    sell("lukas", "Touring skis, 170 cm", "With skins and bindings, edges sharpened last week.", "sports", 19_000, ALTENBERG),
    sell("franz", "Weltmeister accordion, 80 bass", "Tuned in 2019. The strap is new, the case is not.", "music", 34_000, OTTENSHEIM),
    rent("lukas", "Tent for four, two entrances", "Dry in any weather that I met. By the day.", "sports", 900, ALTENBERG),
    sell("bob", "Radio, Ingelen Geographic", "Glows and plays medium wave. The glass of the dial is whole.", "electronics", 9_500, GALLNEUKIRCHEN),
    sell("bob", "Ladder, 3 × 9 rungs", "Aluminium, reaches the gutter of a two-storey house.", "tools", 6_000, HAGENBERG),
    swap("bob", "Apple press, 20 litres", "Oak and cast iron. I press enough with the big one.", "kitchen", "firewood, two cubic metres", GALLNEUKIRCHEN),
    sell("katharina", "Tripp Trapp chair, natural", "With cushion and bar for the smallest.", "furniture", 9_000, ENGERWITZDORF),
    sell("katharina", "Box of picture books", "Thirty of them, some nibbled at the corners.", "books", 2_000, ENGERWITZDORF),
    rent("samira", "Projector and 2 m screen", "For a summer night in the yard. By the evening.", "electronics", 1_500, URFAHR),
    sell("jakob", "Algorithms, fourth edition", "No notes in the margins, one coffee ring.", "books", 2_800, HAGENBERG),
    sell("jakob", "Bass guitar, short scale", "Sunburst, flat-wound strings, with a small practice amplifier.", "music", 14_500, LINZ),
    swap("nora", "Spinning wheel, Ashford", "Oiled and complete, with three bobbins.", "tools", "a loom, or lessons on one", STEYREGG),
    sell("theresia", "Set of nine chisels", "Kirschen, sharpened and honed, in a canvas roll.", "tools", 8_500, PREGARTEN),
    sell("theresia", "Station clock, 40 cm", "Runs two minutes fast a week, as it always did.", "furniture", 12_000, PREGARTEN),
    sell("franz", "Wooden rowing boat, 4 m", "Clinker built, caulked last spring. Lies at the ferry.", "sports", 95_000, OTTENSHEIM),
    rent("franz", "Canoe with two paddles", "By the day, brought to the Danube and fetched again.", "sports", 2_500, OTTENSHEIM),
    sell("petr", "Enlarger, Meopta Opemus 6", "With a 50 mm lens and a stack of paper that should still be good.", "cameras", 11_000, FREISTADT),
    swap("petr", "Box of 120 slides, Bohemia 1972", "Nobody here knows the people in them any more.", "cameras", "any working slide projector", FREISTADT),
    sell("lukas", "Mountain bicycle, 29 inch", "Hard tail, size L, serviced. Bought a smaller one for my back.", "bicycles", 42_000, ALTENBERG),
    sell("samira", "Bread oven, table top", "Stone floor, 350 degrees. Makes four loaves at a time.", "kitchen", 16_000, URFAHR),
    sell("jakob", "Sofa, green, three seats", "Third floor without a lift, so mostly free.", "furniture", 1_000, LINZ),
    rent("theresia", "Wood splitter, 8 tonnes", "By the day, with trailer. I show you how.", "tools", 4_500, PREGARTEN),
    sell("nora", "Accordion for children, 12 bass", "Red, light, loud.", "music", 12_500, WELS),
];
