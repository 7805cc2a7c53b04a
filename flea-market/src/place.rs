//! Places on the map.

use serde::{Deserialize, Serialize};

/// A place, to a millionth of a degree: about ten centimetres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    latitude: i32,
    longitude: i32,
}

/// A place in JSON, in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Degrees {
    /// -90 to 90, north is positive.
    pub latitude: f64,
    /// -180 to 180, east is positive.
    pub longitude: f64,
}

const MICRO: f64 = 1_000_000.0;
const LATITUDE_MAX: i32 = 90_000_000;
const LONGITUDE_MAX: i32 = 180_000_000;
/// Mean radius of the earth.
const EARTH_KM: f64 = 6371.0;
/// One degree of latitude.
const DEGREE_KM: f64 = 111.2;

impl Place {
    /// The corners of the world, south-west and north-east.
    pub const EVERYWHERE: (Self, Self) = (
        Self { latitude: -LATITUDE_MAX, longitude: -LONGITUDE_MAX },
        Self { latitude: LATITUDE_MAX, longitude: LONGITUDE_MAX },
    );

    /// A place in degrees; nothing outside the world, nor for what is not a number.
    #[must_use]
    pub fn from_degrees(latitude: f64, longitude: f64) -> Option<Self> {
        let in_range = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        // In range, so the products fit.
        in_range.then(|| Self {
            latitude: (latitude * MICRO).round() as i32,
            longitude: (longitude * MICRO).round() as i32,
        })
    }

    /// A place in millionths of a degree; nothing outside the world.
    #[must_use]
    pub fn from_micro(latitude: i64, longitude: i64) -> Option<Self> {
        let latitude = i32::try_from(latitude).ok().filter(|l| (-LATITUDE_MAX..=LATITUDE_MAX).contains(l))?;
        let longitude =
            i32::try_from(longitude).ok().filter(|l| (-LONGITUDE_MAX..=LONGITUDE_MAX).contains(l))?;
        Some(Self { latitude, longitude })
    }

    /// Reads `48.37,14.51`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (latitude, longitude) = text.split_once(',')?;
        let number = |text: &str| {
            let is_plain =
                text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
            is_plain.then(|| text.parse::<f64>().ok())?
        };
        Self::from_degrees(number(latitude)?, number(longitude)?)
    }

    /// Millionths of a degree.
    #[must_use]
    pub fn latitude_micro(self) -> i64 {
        i64::from(self.latitude)
    }

    /// Millionths of a degree.
    #[must_use]
    pub fn longitude_micro(self) -> i64 {
        i64::from(self.longitude)
    }

    /// The place in degrees.
    #[must_use]
    pub fn degrees(self) -> Degrees {
        Degrees { latitude: f64::from(self.latitude) / MICRO, longitude: f64::from(self.longitude) / MICRO }
    }

    /// The distance over the surface of the earth, in kilometres (haversine).
    #[must_use]
    pub fn distance_km(self, other: Self) -> f64 {
        let (a, b) = (self.degrees(), other.degrees());
        let (from, to) = (a.latitude.to_radians(), b.latitude.to_radians());
        let half_latitude = ((b.latitude - a.latitude).to_radians() / 2.0).sin();
        let half_longitude = ((b.longitude - a.longitude).to_radians() / 2.0).sin();
        let h = half_latitude.powi(2) + from.cos() * to.cos() * half_longitude.powi(2);
        2.0 * EARTH_KM * h.clamp(0.0, 1.0).sqrt().asin()
    }

    /// South-west and north-east corner of a box that holds everything within `km`; where the box
    /// would cross a pole or the date line, it goes all around.
    #[must_use]
    pub fn box_around(self, km: u32) -> (Self, Self) {
        let here = self.degrees();
        let high = f64::from(km) / DEGREE_KM * 1.01;
        let wide = high / here.latitude.to_radians().cos().max(1e-6);
        let latitudes = ((here.latitude - high).max(-90.0), (here.latitude + high).min(90.0));
        let (west, east) = (here.longitude - wide, here.longitude + wide);
        let at_pole = here.latitude.abs() + high >= 90.0;
        let longitudes =
            if at_pole || west < -180.0 || east > 180.0 { (-180.0, 180.0) } else { (west, east) };
        let (everywhere_south_west, everywhere_north_east) = Self::EVERYWHERE;
        (
            Self::from_degrees(latitudes.0, longitudes.0).unwrap_or(everywhere_south_west),
            Self::from_degrees(latitudes.1, longitudes.1).unwrap_or(everywhere_north_east),
        )
    }

    /// The square of how much shorter a degree of longitude is here than one of latitude, in percent.
    #[must_use]
    pub fn longitude_shrink_percent(self) -> i64 {
        // A cosine squared is at most one, so this is from 0 to 100.
        (self.degrees().latitude.to_radians().cos().powi(2) * 100.0).round() as i64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn distances_are_those_on_the_map() {
        let gallneukirchen = Place::parse("48.37,14.51").unwrap();
        let linz = Place::parse("48.3064,14.2858").unwrap();
        let km = gallneukirchen.distance_km(linz);
        assert!((17.0..19.0).contains(&km), "{km}");
        assert!(gallneukirchen.distance_km(gallneukirchen) < 1e-9);
        let antipodes = Place::parse("-48.37,-165.49").unwrap();
        assert!((20000.0..20040.0).contains(&gallneukirchen.distance_km(antipodes)));
    }

    #[test]
    fn a_box_holds_what_is_within_its_distance() {
        let here = Place::parse("48.37,14.51").unwrap();
        let (south_west, north_east) = here.box_around(25);
        for text in ["48.59,14.51", "48.15,14.51", "48.37,14.84", "48.37,14.18"] {
            let there = Place::parse(text).unwrap();
            assert!(here.distance_km(there) < 25.0, "{text}");
            assert!((south_west.latitude..=north_east.latitude).contains(&there.latitude), "{text}");
            assert!((south_west.longitude..=north_east.longitude).contains(&there.longitude), "{text}");
        }
    }

    #[test]
    fn a_box_at_a_pole_or_the_date_line_goes_all_around() {
        for text in ["89.9,0", "-90,0", "0,179.9", "0,-180"] {
            let (south_west, north_east) = Place::parse(text).unwrap().box_around(50);
            assert_eq!(
                (south_west.longitude, north_east.longitude),
                (-LONGITUDE_MAX, LONGITUDE_MAX),
                "{text}"
            );
        }
    }

    #[test]
    fn accepts_the_edges_of_the_world_and_rejects_what_lies_beyond() {
        assert!(Place::parse("90,180").is_some());
        assert!(Place::parse("-90,-180").is_some());
        for bad in
            ["90.1,0", "0,180.1", "NaN,0", "inf,0", "1e1,0", "48.37", "48.37,14.51,1", ",", "+1,1", " 1,1"]
        {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
        assert_eq!(Place::from_degrees(f64::NAN, 0.0), None);
        assert_eq!(Place::from_micro(i64::MAX, 0), None);
    }
}
