//! The two ways of writing a time in a signed request, both in UTC and to the second.
//!
//! Reads no clock.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;
/// The first second of the year 10000, which four digits cannot write.
const END: u64 = 253_402_300_800;

/// Seconds since 1970 of a time in 1970 to 9999.
pub(super) fn seconds(time: SystemTime) -> Option<u64> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds < END).then_some(seconds)
}

/// `20150830T123600Z`. Later years than 9999 are written as its last second.
pub(super) fn basic(seconds: u64) -> String {
    let seconds = seconds.min(END - 1);
    let (year, month, day) = date(seconds / SECONDS_PER_DAY);
    let of_day = seconds % SECONDS_PER_DAY;
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Reads `20150830T123600Z`; a date that does not exist is refused.
pub(super) fn parse_basic(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| digits(&bytes[range]);
    let seconds = compose(
        number(0..4)?,
        number(4..6)?,
        number(6..8)?,
        number(9..11)?,
        number(11..13)?,
        number(13..15)?,
    )?;
    // Writing it again shows what does not exist, such as 30 February.
    (basic(seconds) == text).then_some(seconds)
}

/// Reads `Sun, 30 Aug 2015 12:36:00 GMT` (RFC 9110, section 5.6.7, the preferred form only). The
/// zone may also be written as mail does, `-0000` or `+0000`: AWS's own Python client does.
pub(super) fn parse_http(text: &str) -> Option<u64> {
    let zones = [" GMT", " -0000", " +0000"];
    let text = zones.iter().find_map(|zone| text.strip_suffix(zone))?;
    let bytes = text.as_bytes();
    if bytes.len() != 25 || !text.is_ascii() {
        return None;
    }
    let number = |range: std::ops::Range<usize>| digits(&bytes[range]);
    let month = 1 + MONTHS.iter().position(|name| *name == &text[8..11])? as u64;
    let seconds = compose(
        number(12..16)?,
        month,
        number(5..7)?,
        number(17..19)?,
        number(20..22)?,
        number(23..25)?,
    )?;
    (http(seconds) == text).then_some(seconds)
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// 1970 began on a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

fn http(seconds: u64) -> String {
    let days = seconds / SECONDS_PER_DAY;
    let (year, month, day) = date(days);
    let of_day = seconds % SECONDS_PER_DAY;
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02}",
        WEEKDAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

fn digits(bytes: &[u8]) -> Option<u64> {
    bytes.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + u64::from(byte - b'0'))
    })
}

fn compose(year: u64, month: u64, day: u64, hour: u64, minute: u64, second: u64) -> Option<u64> {
    if year < 1970
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let months = (1..month)
        .map(|month| days_in_month(year, month))
        .sum::<u64>();
    let days = days_before_year(year) - days_before_year(1970) + months + day - 1;
    Some(days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second)
}

/// Year, month and day of a number of days since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + days_before_year(1970);
    // An estimate that is never too late, and at most one year too early.
    let mut year = days * 400 / 146_097 + 1;
    while days_before_year(year) > days {
        year -= 1;
    }
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let mut rest = days - days_before_year(year);
    let mut month = 1;
    while rest >= days_in_month(year, month) {
        rest -= days_in_month(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

/// Days from the beginning of year 1 to the beginning of `year`, in the Gregorian calendar.
fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        for (seconds, text, http_text) in [
            (0, "19700101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (
                951_782_400,
                "20000229T000000Z",
                "Tue, 29 Feb 2000 00:00:00 GMT",
            ),
            (
                1_440_938_160,
                "20150830T123600Z",
                "Sun, 30 Aug 2015 12:36:00 GMT",
            ),
            (
                4_107_542_399,
                "21000228T235959Z",
                "Sun, 28 Feb 2100 23:59:59 GMT",
            ),
            (
                253_402_300_799,
                "99991231T235959Z",
                "Fri, 31 Dec 9999 23:59:59 GMT",
            ),
        ] {
            assert_eq!(basic(seconds), text);
            assert_eq!(parse_basic(text), Some(seconds));
            assert_eq!(format!("{} GMT", http(seconds)), http_text);
            assert_eq!(parse_http(http_text), Some(seconds));
        }
    }

    #[test]
    fn every_day_of_eight_centuries_survives_the_round_trip() {
        for day in 0..300_000 {
            let seconds = day * SECONDS_PER_DAY + day % SECONDS_PER_DAY;
            assert_eq!(parse_basic(&basic(seconds)), Some(seconds));
        }
    }

    #[test]
    fn times_that_do_not_exist_are_refused() {
        for text in [
            "20150230T123600Z",
            "21000229T000000Z",
            "20151301T000000Z",
            "20150830T240000Z",
            "20150830T126000Z",
            "20150830T123660Z",
            "20150830T123600",
            "2015-08-30T12:36:00Z",
            "20150830 123600Z",
            "",
            "+0150830T123600Z",
        ] {
            assert_eq!(parse_basic(text), None, "{text}");
        }
        for text in [
            "Mon, 30 Aug 2015 12:36:00 GMT",
            "Sun, 30 Aug 2015 12:36:00 UTC",
            "Sunday, 30-Aug-15 12:36:00 GMT",
            "Sun, 30 aug 2015 12:36:00 GMT",
            "Sun, 31 Sep 2015 12:36:00 GMT",
            "Sun, 30 Aug 2015 12:36:0\u{e9} GM",
        ] {
            assert_eq!(parse_http(text), None, "{text}");
        }
    }
}
