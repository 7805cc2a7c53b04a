//! Numbers as people read them: three digits that count, thousands apart.

use crate::experiment::data::Interval;

/// `1234.5` → `1,234`; `12.34` → `12.3`; `0.1234` → `0.123`.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    thousands(&format!("{value:.decimals$}"))
}

/// What is counted in whole: `19`, `1,093`.
pub(super) fn counted(count: u32) -> String {
    thousands(&count.to_string())
}

/// `12.3 to 45.6`
pub(super) fn range(interval: &Interval) -> String {
    format!("{} to {}", number(interval.low), number(interval.high))
}

/// `0.77`, always with two decimals: ratios stand below each other.
pub(super) fn ratio(value: f64) -> String {
    if value >= 100.0 || !value.is_finite() { number(value) } else { format!("{value:.2}") }
}

/// `0.74 to 0.80`
pub(super) fn ratio_range(interval: &Interval) -> String {
    format!("{} to {}", ratio(interval.low), ratio(interval.high))
}

/// `0.77 (0.74 to 0.80)`
pub(super) fn ratio_with_interval(interval: &Interval) -> String {
    format!("{} ({})", ratio(interval.estimate), ratio_range(interval))
}

/// Microseconds in whatever unit they are short in: `850 µs`, `1.25 ms`, `2.00 s`.
pub(super) fn duration(us: f64) -> String {
    match us.abs() {
        size if size >= 1e6 => format!("{}\u{a0}s", number(us / 1e6)),
        size if size >= 1e3 => format!("{}\u{a0}ms", number(us / 1e3)),
        _ => format!("{}\u{a0}µs", number(us)),
    }
}

/// Microseconds with their interval, all three in the unit of the largest: `−1.70 ms (−2.49 to −0.944)`.
pub(super) fn duration_with_interval(us: &Interval) -> String {
    let (unit, [estimate, low, high]) = in_one_unit(us);
    format!("{estimate}\u{a0}{unit} ({low} to {high})")
}

/// The unit that the largest of the three is short in, and what estimate, low and high are in it.
pub(super) fn in_one_unit(us: &Interval) -> (&'static str, [String; 3]) {
    let all = [us.estimate, us.low, us.high];
    let (per, unit) = match all.into_iter().map(f64::abs).fold(0.0, f64::max) {
        largest if largest >= 1e6 => (1e6, "s"),
        largest if largest >= 1e3 => (1e3, "ms"),
        _ => (1.0, "µs"),
    };
    (unit, all.map(|value| number(value / per)))
}

/// Bytes of a payload: `100 B`, `10 kB`, `1 MB`.
pub(super) fn bytes(count: u32) -> String {
    match count {
        count if count >= 1_000_000 => format!("{}\u{a0}MB", whole(f64::from(count) / 1e6)),
        count if count >= 1000 => format!("{}\u{a0}kB", whole(f64::from(count) / 1e3)),
        count => format!("{count}\u{a0}B"),
    }
}

/// `95 %`
pub(super) fn percent(share: f64) -> String {
    format!("{}\u{a0}%", whole(share * 100.0))
}

/// As [`number`], without zeros that say nothing.
pub(super) fn whole(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("−", rest));
    let (whole, rest) = digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let mut apart = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    if let Some(rest) = rest {
        apart.push('.');
        apart.push_str(rest);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_their_thousands_apart() {
        for (value, text) in
            [(1_234_567.8, "1,234,568"), (999.6, "1,000"), (12.34, "12.3"), (-0.5, "−0.500"), (0.0, "0")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(f64::NAN), "–");
        assert_eq!([0, 19, 1093].map(counted), ["0", "19", "1,093"]);
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!([850.0, 1250.0, 2e6].map(duration), ["850\u{a0}µs", "1.25\u{a0}ms", "2.00\u{a0}s"]);
        assert_eq!([100, 10_000, 1_000_000].map(bytes), ["100\u{a0}B", "10\u{a0}kB", "1\u{a0}MB"]);
        assert_eq!([0.95, 0.99, 1.0].map(percent), ["95\u{a0}%", "99\u{a0}%", "100\u{a0}%"]);
    }

    #[test]
    fn an_interval_has_one_unit_although_its_ends_differ_in_size() {
        let interval = |estimate, low, high| Interval { estimate, low, high };
        assert_eq!(
            duration_with_interval(&interval(-1700.0, -2490.0, -944.0)),
            "−1.70\u{a0}ms (−2.49 to −0.944)"
        );
        assert_eq!(duration_with_interval(&interval(12.0, -3.5, 40.0)), "12.0\u{a0}µs (−3.50 to 40.0)");
    }
}
