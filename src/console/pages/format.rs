//! How numbers, times and spans are written. One way for all pages.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::words::Lang;

/// With thousands set apart: `1,234,567`.
pub(super) fn number(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if n < 0 {
        out.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count that may have stopped before the end: `10,000+`.
pub(super) fn counted(n: i64, exact: bool) -> String {
    let more = if exact { "" } else { "+" };
    format!("{}{more}", number(n))
}

/// Messages a second: whole from ten on, else with one decimal.
pub(super) fn rate(a_second: f64) -> String {
    if a_second >= 9.95 {
        number(a_second.round() as i64)
    } else if a_second < 0.05 {
        "0".to_owned()
    } else {
        format!("{a_second:.1}")
    }
}

/// Its two largest units: `3 min 20 s`, `850 ms`.
pub(super) fn span(t: Lang, span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |first: String, rest: u64, second: String| match rest {
        0 => first,
        _ => format!("{first} {second}"),
    };
    match seconds {
        0 => t.milliseconds(span.as_millis() as u64),
        1..10 => t.seconds(&format!("{:.1}", span.as_secs_f64())),
        10..60 => t.seconds(&seconds.to_string()),
        60..3600 => two(
            t.minutes(seconds / 60),
            seconds % 60,
            t.seconds(&(seconds % 60).to_string()),
        ),
        3600..86400 => two(t.hours(seconds / 3600), seconds / 60 % 60, t.minutes(seconds / 60 % 60)),
        _ => two(
            t.days(seconds / 86400),
            seconds / 3600 % 24,
            t.hours(seconds / 3600 % 24),
        ),
    }
}

/// [`span`] of so many seconds; a negative one is none.
pub(super) fn span_of(t: Lang, seconds: f64) -> String {
    span(t, Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

/// A time as people and as machines read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Time {
    /// For `datetime`.
    pub machine: String,
    /// In UTC, by the second: the same in every language and in the log.
    pub human: String,
}

/// Writes a time.
pub(super) fn time(at: DateTime<Utc>) -> Time {
    Time {
        machine: at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        human: at.format("%Y-%m-%d %H:%M:%S").to_string(),
    }
}

/// How long ago; none in the future.
pub(super) fn since(t: Lang, at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    span(t, (now - at).to_std().unwrap_or_default())
}

/// Kibibytes and more from ten of them on.
pub(super) fn bytes(n: i64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 10_240.0 {
            return format!("{} {unit}", number(value.round() as i64));
        }
        value /= 1024.0;
    }
    format!("{} TiB", number(value.round() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rates_are_short() {
        for (n, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(number(n), expected);
        }
        for (r, expected) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.26, "0.3"),
            (9.94, "9.9"),
            (9.96, "10"),
            (43210.4, "43,210"),
        ] {
            assert_eq!(rate(r), expected);
        }
        assert_eq!(
            (&*bytes(512), &*bytes(20 << 10), &*bytes(5 << 40)),
            ("512 B", "20 KiB", "5,120 GiB")
        );
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (millis, expected) in [
            (0, "0 ms"),
            (850, "850 ms"),
            (3_200, "3.2 s"),
            (42_000, "42 s"),
            (120_000, "2 min"),
            (200_000, "3 min 20 s"),
            (3_660_000, "1 h 1 min"),
            (100_000_000, "1 d 3 h"),
        ] {
            assert_eq!(span(Lang::En, Duration::from_millis(millis)), expected);
        }
        assert_eq!(span(Lang::Ko, Duration::from_secs(200)), "3분 20초");
        assert_eq!(span_of(Lang::En, -1.0), "0 ms");
    }
}
