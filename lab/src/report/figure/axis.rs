//! From values to places on an axis, and the few of them that get a mark.

use crate::report::format::whole;

/// An axis that holds all values that were given to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    logarithmic: bool,
    low: f64,
    high: f64,
}

impl Axis {
    /// Holds every finite one of `values`; a logarithmic one every positive one.
    pub(super) fn holding(values: impl IntoIterator<Item = f64>, logarithmic: bool) -> Self {
        let usable = |value: &f64| value.is_finite() && (!logarithmic || *value > 0.0);
        let values: Vec<f64> = values.into_iter().filter(usable).collect();
        let low = values.iter().copied().reduce(f64::min).unwrap_or(1.0);
        let high = values.iter().copied().reduce(f64::max).unwrap_or(2.0);
        let axis = Self { logarithmic, low, high };
        let (from, to) = (axis.place(low), axis.place(high));
        let margin = ((to - from) * 0.06).max(if logarithmic { 0.05 } else { high.abs().max(1.0) * 0.01 });
        let value = |place: f64| if logarithmic { place.exp() } else { place };
        Self { logarithmic, low: value(from - margin), high: value(to + margin) }
    }

    /// Where a value lies; what an axis cannot hold lies at its lower end.
    pub(super) fn place(&self, value: f64) -> f64 {
        match (self.logarithmic, value > 0.0) {
            (true, true) => value.ln(),
            (true, false) => self.low.ln(),
            (false, _) => value,
        }
    }

    /// Both ends, as places.
    pub(super) fn ends(&self) -> std::ops::Range<f64> {
        self.place(self.low)..self.place(self.high)
    }

    /// About `wanted` round values, each with its text.
    pub(super) fn ticks(&self, wanted: u32) -> Vec<(f64, String)> {
        let values = if self.logarithmic { self.logarithmic_ticks(wanted) } else { Vec::new() };
        let values = if values.len() < 2 { self.even_ticks(wanted) } else { values };
        // Adding zero takes the sign off a zero.
        values.into_iter().map(|value| (value, text(value + 0.0))).collect()
    }

    fn even_ticks(&self, wanted: u32) -> Vec<f64> {
        let rough = (self.high - self.low) / f64::from(wanted.max(1));
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|of| of * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.low / step).ceil() * step;
        let next = |value: &f64| Some(value + step);
        std::iter::successors(Some(first), next)
            .take_while(|value| *value <= self.high)
            .take(TICKS_MAX)
            .collect()
    }

    /// Powers of ten, or halves and fifths between them as well where there are few.
    fn logarithmic_ticks(&self, wanted: u32) -> Vec<f64> {
        let within = |value: &f64| (self.low..=self.high).contains(value);
        let from = 10_f64.powf(self.low.log10().floor());
        let of = |parts: &[f64]| -> Vec<f64> {
            let next = |power: &f64| Some(power * 10.0);
            let powers = std::iter::successors(Some(from), next).take_while(|power| *power <= self.high);
            powers
                .take(TICKS_MAX)
                .flat_map(|power| parts.iter().map(move |part| part * power))
                .filter(within)
                .collect()
        };
        let finest_first: [&[f64]; 3] = [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0]];
        let enough = |ticks: &Vec<f64>| ticks.len() <= wanted.max(2) as usize;
        finest_first.into_iter().map(of).find(enough).unwrap_or_else(|| of(&[1.0]))
    }
}

/// As it stands beside a mark: `0.5`, `20`, `1,000`, `100k`.
fn text(value: f64) -> String {
    if value >= 100_000.0 { format!("{}k", whole(value / 1000.0)) } else { whole(value) }
}

const TICKS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<String> {
        axis.ticks(6).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn round_values_are_marked() {
        assert_eq!(texts(&Axis::holding([0.0, 100.0], false)), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(texts(&Axis::holding([0.6, 4.0], true)), ["0.7", "1", "1.5", "2", "3"]);
        assert_eq!(texts(&Axis::holding([1.0, 10_000.0], true)), ["1", "10", "100", "1,000", "10,000"]);
    }

    #[test]
    fn an_axis_of_one_value_or_none_still_has_two_ends() {
        for values in [&[][..], &[5.0], &[0.0], &[f64::NAN], &[-3.0, -3.0]] {
            for logarithmic in [false, true] {
                let ends = Axis::holding(values.iter().copied(), logarithmic).ends();
                assert!(
                    ends.start.is_finite() && ends.end.is_finite() && ends.start < ends.end,
                    "{values:?}"
                );
            }
        }
    }
}
