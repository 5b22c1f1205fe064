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

    /// RFC 3339 in UTC with milliseconds, as [`fmt::Display`] gives it; `None` outside of the years
    /// 1970 to 9999. Every request writes some: a general formatter would take a hundredth of its time.
    #[must_use]
    pub fn ascii(self) -> Option<[u8; 24]> {
        const DAY: u64 = 86_400_000;
        let millis = u64::try_from(self.0).ok().filter(|_| self < Self::FAR_FUTURE)?;
        let (days, of_day) = (millis / DAY, millis % DAY);
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years begin in
        // March, so that the odd day is the last; eras are the calendar's 400 years of 146,097 days.
        let since_march_0000 = days + 719_468;
        let (era, of_era) = (since_march_0000 / 146_097, since_march_0000 % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);

        let mut text = *b"0000-00-00T00:00:00.000Z";
        fill(&mut text[0..4], year);
        fill(&mut text[5..7], month);
        fill(&mut text[8..10], day);
        fill(&mut text[11..13], of_day / 3_600_000);
        fill(&mut text[14..16], of_day / 60_000 % 60);
        fill(&mut text[17..19], of_day / 1000 % 60);
        fill(&mut text[20..23], of_day % 1000);
        Some(text)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ascii().as_ref().map(|text| std::str::from_utf8(text)) {
            Some(Ok(text)) => f.write_str(text),
            Some(Err(_)) | None => match Instant::from_millisecond(self.0) {
                Ok(at) => write!(f, "{at:.3}"),
                Err(_) => write!(f, "{}ms", self.0),
            },
        }
    }
}

/// Writes a number into places for its digits, from the right.
fn fill(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// jiff is the judge: of single moments, and of each end of every day of the calendar.
        #[test]
        fn agrees_with_the_calendar(millis in 0..Timestamp::FAR_FUTURE.0, day in 0i64..2_932_895) {
            for millis in [millis, day * 86_400_000, day * 86_400_000 + 86_399_999] {
                let judge = Instant::from_millisecond(millis).unwrap();
                prop_assert_eq!(Timestamp(millis).to_string(), format!("{judge:.3}"));
            }
        }
    }

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
