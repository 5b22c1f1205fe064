//! A point in time, as an argument.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp as Instant;

/// Milliseconds since the Unix epoch, UTC.
///
/// Only `clock.rs` makes one from the wall clock; everything else takes it as an argument.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time that can be said: never reached.
    pub const FAR_FUTURE: Self = Self(253_402_207_200_000);

    /// Wraps milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Wraps seconds since the Unix epoch, saturating far outside of any calendar.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time plus `span`; what would lie beyond every calendar is [`Self::FAR_FUTURE`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let later = self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
        if later > Self::FAR_FUTURE.0 { self.max(Self::FAR_FUTURE) } else { Self(later) }
    }

    /// This time minus `span`, saturating.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` until this time; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339 text. A timestamp without a zone is refused: which zone would it be?
    ///
    /// # Errors
    ///
    /// When `text` is not an RFC 3339 date and time with a zone; the message says how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<Instant>()
            .map(|at| Self(at.as_millisecond()))
            .map_err(|_| format!("{text:?} is not a date and time with a zone, such as 2027-01-31T00:00:00Z"))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Instant::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// Reads a span such as `90s`, `15m`, `24h`, `30d`, `250ms`: a whole number and one unit.
///
/// # Errors
///
/// When the text is not a number with one of those units, or overflows.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a span of time such as \"250ms\", \"90s\", \"15m\", \"24h\" or \"30d\"");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    millis.and_then(|unit| number.checked_mul(unit)).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_times_with_a_zone() {
        assert_eq!(Timestamp::parse("1970-01-01T00:00:01Z"), Ok(Timestamp::from_seconds(1)));
        assert_eq!(Timestamp::parse("1970-01-01T01:00:01+01:00"), Ok(Timestamp::from_seconds(1)));
        assert!(Timestamp::parse("2027-01-31T00:00:00").is_err());
        assert!(Timestamp::parse("2027-01-31").is_err());
        assert!(Timestamp::parse("tomorrow").is_err());
    }

    #[test]
    fn no_span_leads_out_of_the_calendar() {
        let now = Timestamp::from_seconds(1_800_000_000);
        for days in [3_000_000u64, 99_999_999_999] {
            let later = now.after(Duration::from_secs(days * 86_400));
            assert_eq!(later, Timestamp::FAR_FUTURE);
            assert_eq!(Timestamp::parse(&later.to_string()), Ok(later));
        }
        assert_eq!(Timestamp::FAR_FUTURE.after(Duration::from_secs(1)), Timestamp::FAR_FUTURE);
    }

    #[test]
    fn prints_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1).to_string(), "1970-01-01T00:00:00.001Z");
        assert_eq!(Timestamp::FAR_FUTURE.to_string(), "9999-12-30T22:00:00.000Z");
    }

    #[test]
    fn reads_spans() {
        check("30d", Some(30 * 86_400_000));
        check("250ms", Some(250));
        check("0s", Some(0));
        check("5", None);
        check("m", None);
        check("-5m", None);
        check("1.5h", None);
        check("5 m", None);
        check("99999999999999999999d", None);
        check("18446744073709551615d", None);
    }

    #[track_caller]
    fn check(text: &str, millis: Option<u64>) {
        assert_eq!(parse_span(text).ok(), millis.map(Duration::from_millis), "{text}");
    }
}
