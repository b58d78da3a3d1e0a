//! Dates of Release files as apt reads them (`RFC1123StrToTime` in apt-pkg/contrib/strutl.cc): the three forms of
//! HTTP (RFC 9110 section 5.6.7), more loosely than that has them.
//!
//! Loose where apt is: one digit will do for hours, minutes and seconds, a month is known by its first letters, a
//! day that the month does not have belongs to the next. Strict where apt is: the zone must be UTC.

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
/// Years are four digits at most.
const MAX_YEAR: i64 = 9999;

/// Seconds since 1970; `None` for what apt calls invalid.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let (weekday, rest) = split_word(text)?;
    let weekday = weekday.to_ascii_lowercase();
    let is_short = |name: &str| WEEKDAYS.iter().any(|known| known[..3] == *name);
    match weekday.strip_suffix(',') {
        Some(name) if is_short(name) => rfc_1123(rest),
        Some(name) if WEEKDAYS.contains(&name) => rfc_850(rest),
        None if is_short(&weekday) => asctime(rest),
        _ => None,
    }
}

/// `06 Nov 1994 08:49:37 GMT`
fn rfc_1123(text: &str) -> Option<i64> {
    let (day, rest) = leading_number(text)?;
    let (month, rest) = split_word(rest)?;
    let (year, rest) = split_word(rest)?;
    let (time, zone) = split_word(rest)?;
    let zone = zone.trim_ascii();
    is_utc(zone).then_some(())?;
    combine(number(year)?, month, day, time)
}

/// `06-Nov-94 08:49:37 GMT`, whose year is counted from 1900.
fn rfc_850(text: &str) -> Option<i64> {
    let (date, rest) = split_word(text)?;
    let (time, zone) = split_word(rest)?;
    let mut parts = date.split('-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && is_utc(zone.trim_ascii())).then_some(())?;
    combine(1900 + number(year)?, month, number(day)?, time)
}

/// `Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<i64> {
    let mut words = text.split_ascii_whitespace();
    let (month, day, time, year) = (words.next()?, words.next()?, words.next()?, words.next()?);
    words.next().is_none().then_some(())?;
    combine(number(year)?, month, number(day)?, time)
}

/// The first word and what follows it.
fn split_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_ascii_start();
    let end = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The number at the start and what follows it, with or without a blank between.
fn leading_number(text: &str) -> Option<(i64, &str)> {
    let text = text.trim_ascii_start();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some((number(&digits[..end])?, &digits[end..]))
}

fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// One of the names of UTC, or an offset of zero.
fn is_utc(zone: &str) -> bool {
    let digits = zone.strip_prefix(['+', '-']).unwrap_or(zone);
    matches!(zone, "UTC" | "GMT" | "Z") || (!digits.is_empty() && digits.bytes().all(|c| c == b'0'))
}

fn combine(year: i64, month: &str, day: i64, time: &str) -> Option<i64> {
    if !(0..=MAX_YEAR).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    Some((days_before(year, month_number(month)) + day - 1) * 86_400 + seconds_of_day(time)?)
}

/// `3:04:05`; what follows the seconds does not matter.
fn seconds_of_day(text: &str) -> Option<i64> {
    let (hour, rest) = text.split_once(':')?;
    let (minute, rest) = rest.split_once(':')?;
    let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
    // Leap seconds, of which C once thought that there could be two.
    Some(part(hour, 23)? * 3600 + part(minute, 59)? * 60 + part(&rest[..digits], 61)?)
}

/// One or two digits.
fn part(text: &str, max: i64) -> Option<i64> {
    let is_part = (1..=2).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|number| is_part && *number <= max)
}

/// From 1, by as few letters as it takes; a name that is none counts as January.
fn month_number(name: &str) -> i64 {
    let name = name.to_ascii_lowercase();
    let letter = |at: usize| name.as_bytes().get(at).copied().unwrap_or(0);
    match (letter(0), letter(1), letter(2)) {
        (b'f', ..) => 2,
        (b'm', _, b'r') => 3,
        (b'a', b'p', _) => 4,
        (b'm', ..) => 5,
        (b'j', b'a', _) => 1,
        (b'j', _, b'n') => 6,
        (b'j', ..) => 7,
        (b'a', ..) => 8,
        (b's', ..) => 9,
        (b'o', ..) => 10,
        (b'n', ..) => 11,
        (b'd', ..) => 12,
        _ => 1,
    }
}

/// Days from 1970 to the first of a month, in the Gregorian calendar of all times.
fn days_before(year: i64, month: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2025-10-04 03:04:05.
    const NOW: i64 = 1_759_547_045;

    /// Each was given to `RFC1123StrToTime` of apt 2.6.
    #[test]
    fn as_apt_reads_them() {
        for (text, want) in [
            ("Sat, 04 Oct 2025 03:04:05 UTC", Some(NOW)),
            ("Sat, 04 Oct 2025 3:4:5 UTC", Some(NOW)),
            ("Sat,  4 Oct 2025  03:04:05\tUTC", Some(NOW)),
            ("  Mon, 04 Oct 2025 03:04:05 GMT", Some(NOW)),
            ("SAT, 04 OCT 2025 03:04:05 Z", Some(NOW)),
            ("Sat, 04 Okt 2025 03:04:05 +0000", Some(NOW)),
            ("Sat, 04 October 2025 03:04:05 -000", Some(NOW)),
            ("Sat, 004 O +2025 03:04:05 0", Some(NOW)),
            ("Sat, +4Oct 2025 03:04:05.5 00000", Some(NOW)),
            ("Sat Oct  4 03:04:05 2025", Some(NOW)),
            ("sat oct 04 3:04:05 2025", Some(NOW)),
            ("Saturday, 04-Oct-125 03:04:05 GMT", Some(NOW)),
            ("thursday, 4-oct-125 3:4:5 +0000", Some(NOW)),
            ("Saturday, 04-Oct-25 03:04:05 GMT", Some(-1_396_212_955)),
            ("Saturday, 04-Oct-99 03:04:05 GMT", Some(939_006_245)),
            ("Sat, 04 10 2025 03:04:05 UTC", Some(1_735_959_845)),
            ("Sat, 04 J 2025 03:04:05 UTC", Some(1_751_598_245)),
            ("Sat, 04 mai 2025 03:04:05 UTC", Some(1_746_327_845)),
            ("Sat, 04 ago 2025 03:04:05 UTC", Some(1_754_276_645)),
            ("Sat, 30 Feb 2025 03:04:05 UTC", Some(1_740_884_645)),
            ("Sun, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800)),
            ("Sat, 04 Oct 2025 23:59:61 UTC", Some(1_759_622_401)),
            ("Sat, 04 Oct 2025 23:59:599 UTC", Some(1_759_622_399)),
            ("Sat, 04 Oct 25 03:04:05 UTC", Some(-61_354_356_955)),
            ("Thu, 01 Jan 1970 00:00:00 UTC", Some(0)),
            ("Sat, 04 Oct 0 03:04:05 UTC", Some(-62_143_275_355)),
            ("Fri, 31 Dec 9999 23:59:59 UTC", Some(253_402_300_799)),
        ] {
            assert_eq!(seconds(text), want, "{text:?}");
        }
    }

    #[test]
    fn as_apt_refuses_them() {
        for text in [
            "",
            "never",
            "UTC",
            "1759547045",
            "2025-10-04T03:04:05Z",
            "04 Oct 2025 03:04:05 UTC",
            "Sat,04 Oct 2025 03:04:05 UTC",
            "Sat 04 Oct 2025 03:04:05 UTC",
            "Sa, 04 Oct 2025 03:04:05 UTC",
            "Foo, 04 Oct 2025 03:04:05 UTC",
            "Sat, 4th Oct 2025 03:04:05 UTC",
            "Sat, 4.5 Oct 2025 03:04:05 UTC",
            "Sat, -4 Oct 2025 03:04:05 UTC",
            "Sat, 00 Oct 2025 03:04:05 UTC",
            "Sat, 32 Oct 2025 03:04:05 UTC",
            "Sat, 04-Oct-2025 03:04:05 UTC",
            "Sat, 04 Oct2025 03:04:05 UTC",
            "Sat, 04 Oct 2025x 03:04:05 UTC",
            "Sat, 04 Oct -2025 03:04:05 UTC",
            "Sat, 04 Oct 10000 03:04:05 UTC",
            "Sat, 04 Oct 9999999999999 03:04:05 UTC",
            "Sat, 04 Oct 2025 03:04 UTC",
            "Sat, 04 Oct 2025 03.04.05 UTC",
            "Sat, 04 Oct 2025 003:04:05 UTC",
            "Sat, 04 Oct 2025 +3:04:05 UTC",
            "Sat, 04 Oct 2025 24:00:00 UTC",
            "Sat, 04 Oct 2025 23:60:00 UTC",
            "Sat, 04 Oct 2025 23:59:62 UTC",
            "Sat, 04 Oct 2025 23:59: UTC",
            "Sat, 04 Oct 2025 03:04:05",
            "Sat, 04 Oct 2025 03:04:05UTC",
            "Sat, 04 Oct 2025 03:04:05 UT",
            "Sat, 04 Oct 2025 03:04:05 utc",
            "Sat, 04 Oct 2025 03:04:05 JST",
            "Sat, 04 Oct 2025 03:04:05 +0100",
            "Sat, 04 Oct 2025 03:04:05 +00:00",
            "Sat, 04 Oct 2025 03:04:05 -",
            "Sat, 04 Oct 2025 03:04:05 UTC extra",
            "Sat Oct  4 03:04:05 2025 UTC",
            "Sat Oct  4 03:04:05 UTC 2025",
            "Sat Oct  4 03:04:05 20251",
            "Saturday, 04 Oct 2025 03:04:05 GMT",
            "Saturday 04-Oct-25 03:04:05 GMT",
            "Samstag, 04-Oct-25 03:04:05 GMT",
            "Saturday, 04-Oct--25 03:04:05 GMT",
            "Saturday, 04-Oct-125-3 03:04:05 GMT",
            "Saturday, 04-Oct-8100 03:04:05 GMT",
            "Saturday, 04-Oct-25 03:04:05",
        ] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text(text in "[A-Z]?[a-z]{0,8},? ?[0-9+-]{0,3}[ -]?[A-Za-z]{0,3}[ -]?[0-9]{0,6} [0-9:]{0,12} ?(UTC|[+-]0000|é|\\PC)?") {
            let _ = seconds(&text);
        }
    }
}
