//! Dates of the calendar, with the time of day that follows one; and, where the words around make them dates, years
//! and weekdays by themselves. Months have English names.

use regex::Regex;

use super::context::{self, Field};
use super::{Candidate, begins, ends};
use crate::Kind;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const MONTH: &str = "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)";
const TIME: &str = r"(?:(?:[Tt]|,? |, ?)[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?(?: ?[AaPp]\.?[Mm]\.?)?(?: ?(?:[Zz]|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?)?";

/// Before a year.
const LEADS: &[&str] = &[
    "in", "since", "during", "until", "till", "before", "after", "circa", "year", "spring",
    "summer", "autumn", "fall", "winter", "early", "mid", "late", "born", "dated",
];
/// Before a year, where no noun in the plural follows and no name.
const WEAK_LEADS: &[&str] = &[
    "of", "by", "from", "to", "and", "between", "a", "an", "the", "around",
];
/// After a number that is none.
const UNITS: &[&str] = &[
    "am", "bc", "calories", "cm", "dollars", "eur", "euros", "feet", "ft", "g", "gb", "kb", "kg",
    "km", "lb", "lbs", "m", "mb", "meters", "metres", "miles", "ml", "mm", "ms", "others",
    "people", "percent", "rpm", "sq", "usd", "units", "volts", "w", "watts",
];
const WORDS: &[&str] = &[
    "dob",
    "birth",
    "birthday",
    "birthdate",
    "born",
    "date",
    "expiry",
    "dateofbirth",
];

/// Before a month and two digits of a year.
const EXPIRY: &[&str] = &[
    "exp",
    "expiry",
    "expires",
    "expiring",
    "expiration",
    "expdate",
    "valid",
    "thru",
    "until",
];

pub(super) struct Dates {
    full: Regex,
    weekday: Regex,
    year: Regex,
    compact: Regex,
}

impl Dates {
    pub(super) fn new() -> Self {
        let full = [
            format!("(?<y1>[0-9]{{4}})(?<s1>[-/.])(?<m1>[0-9]{{1,2}})(?<t1>[-/.])(?<d1>[0-9]{{1,2}}){TIME}"),
            format!("(?<a2>[0-9]{{1,2}})(?<s2>[-/.])(?<b2>[0-9]{{1,2}})(?<t2>[-/.])(?<y2>[0-9]{{4}}|[0-9]{{2}}){TIME}"),
            "(?<m6>[0-9]{1,2})/(?<y6>(?:19|20)[0-9]{2}|[0-9]{2})".to_owned(),
            format!("(?<d3>[0-9]{{1,2}})(?i:st|nd|rd|th)?(?: of)?(?: |-|\\.|\\. )?(?<m3>(?i:{MONTH}))(?:\\.?(?:,? |-)(?<y3>[0-9]{{4}}){TIME})?"),
            format!("(?<m5>(?i:{MONTH}))(?:\\.?,? (?:of )?|-)(?<y5>[0-9]{{4}})"),
            format!("(?<m4>(?i:{MONTH}))(?:\\.? |-)(?<d4>[0-9]{{1,2}})(?i:st|nd|rd|th)?(?:(?:,? |-)(?<y4>[0-9]{{4}}){TIME})?"),
        ]
        .join("|");
        let regex = |text: &str| Regex::new(text).expect("the expression is right");
        Self {
            full: regex(&full),
            weekday: regex("(?i:mon|tues|wednes|thurs|fri|satur|sun)(?i:day)"),
            year: regex("(?:19|20)[0-9]{2}"),
            compact: regex("(?:19|20)[0-9]{6}"),
        }
    }

    pub(super) fn find(&self, text: &str, field: &Field, digits: usize, out: &mut Vec<Candidate>) {
        if digits > 0 {
            self.full(text, field, out);
        }
        let has_days = text
            .as_bytes()
            .windows(3)
            .any(|three| three.eq_ignore_ascii_case(b"day"));
        if has_days {
            for found in self.weekday.find_iter(text) {
                if begins(text, found.start())
                    && ends(text, found.end())
                    && !recurs(text, found.start())
                {
                    out.push(Candidate::new(Kind::Date, found.start(), found.end()));
                }
            }
        }
        if digits >= 4 {
            for found in self.year.find_iter(text) {
                if is_year(text, found.start(), found.end()) {
                    out.push(Candidate::new(Kind::Date, found.start(), found.end()));
                }
            }
        }
        if digits >= 8 {
            for found in self.compact.find_iter(text) {
                let number = |from: usize, to: usize| found.as_str()[from..to].parse().unwrap_or(0);
                if begins(text, found.start())
                    && ends(text, found.end())
                    && is_day(number(0, 4), number(4, 6), number(6, 8))
                    && context::before(text, found.start(), field, WORDS, &["order", "id"])
                {
                    out.push(Candidate::new(Kind::Date, found.start(), found.end()));
                }
            }
        }
    }

    fn full(&self, text: &str, field: &Field, out: &mut Vec<Candidate>) {
        for found in self.full.captures_iter(text) {
            let whole = found.get_match();
            let (start, end) = (whole.start(), whole.end());
            if !begins(text, start) || !ends(text, end) || !stands_alone(text, start, end) {
                continue;
            }
            let number = |name: &str| {
                let digits = found.name(name)?.as_str();
                let value: u32 = digits.parse().ok()?;
                // Two digits name a year of any century; leap years agree but for the full ones.
                Some(if name.starts_with('y') && digits.len() == 2 {
                    value + 2000
                } else {
                    value
                })
            };
            let month = |name: &str| {
                let name = found.name(name)?.as_str().get(..3)?.to_ascii_lowercase();
                let index = MONTHS.iter().position(|month| *month == name)?;
                u32::try_from(index + 1).ok()
            };
            let same = |first: &str, second: &str| {
                found.name(first).map(|found| found.as_str())
                    == found.name(second).map(|found| found.as_str())
            };
            let text_of = |name: &str| found.name(name).map_or("", |found| found.as_str());
            let right = if let (Some(y), Some(m), Some(d)) =
                (number("y1"), number("m1"), number("d1"))
            {
                same("s1", "t1") && is_day(y, m, d)
            } else if let (Some(a), Some(b), Some(y)) = (number("a2"), number("b2"), number("y2")) {
                let short = text_of("y2").len() == 2;
                let full = text_of("a2").len() == 2 && text_of("b2").len() == 2;
                same("s2", "t2")
                    && (is_day(y, a, b) || is_day(y, b, a))
                    && (!short || full || text_of("s2") == "/")
            } else if let (Some(m), Some(y)) = (number("m6"), number("y6")) {
                // `3/24` is most often a fraction.
                let short = text_of("y6").len() == 2;
                let full = text_of("m6").len() == 2;
                is_day(y, m, 1)
                    && (!short || full && context::before(text, start, field, EXPIRY, &[]))
            } else if let (Some(d), Some(m)) = (number("d3"), month("m3")) {
                is_day(number("y3").unwrap_or(2000), m, d)
                    && (number("y3").is_some() || is_named(text_of("m3")))
            } else if let (Some(m), Some(d)) = (month("m4"), number("d4")) {
                is_day(number("y4").unwrap_or(2000), m, d)
                    && (number("y4").is_some() || is_named(text_of("m4")))
            } else if let (Some(_), Some(y)) = (month("m5"), number("y5")) {
                is_named(text_of("m5")) && is_day(y, 1, 1)
            } else {
                false
            };
            if right {
                out.push(Candidate::new(Kind::Date, start, end));
            }
        }
    }
}

/// `every Monday`, `the last Sunday before Labor Day`: a rule, and no date.
fn recurs(text: &str, at: usize) -> bool {
    let word = context::word_before(text, at);
    let small = word.to_ascii_lowercase();
    match &*small {
        "every" | "each" | "per" => true,
        "first" | "second" | "third" | "fourth" | "last" => {
            let before = text[..at].trim_end();
            let before = &before[..before.len() - word.len()];
            context::word_before(before, before.len()).eq_ignore_ascii_case("the")
        }
        _ => false,
    }
}

/// A month without a year beside it is one where it is not an ordinary word: `may 5` is none.
fn is_named(month: &str) -> bool {
    month.starts_with(|first: char| first.is_ascii_uppercase())
        || !matches!(month, "may" | "march" | "mar" | "dec" | "sep" | "jan")
}

/// Whether no slash, dash or dot leads on to more digits.
fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let mark = |byte: &u8| matches!(byte, b'-' | b'/' | b'.' | b':' | b',');
    let bytes = text.as_bytes();
    let before = start >= 2 && mark(&bytes[start - 1]) && bytes[start - 2].is_ascii_digit();
    let after =
        bytes.get(end).is_some_and(mark) && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
    !before && !after
}

/// Whether there is such a day in the Gregorian calendar, between 1800 and 2199.
fn is_day(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1800..2200).contains(&year) && (1..=days).contains(&day)
}

fn is_year(text: &str, start: usize, end: usize) -> bool {
    if !begins(text, start) || !ends(text, end) || !stands_alone(text, start, end) {
        return false;
    }
    let rest = &text[end..];
    let before = text[..start].trim_end_matches([' ', '\n', '(']);
    if before.len() == start || rest.starts_with(['%', '-', '/', '$', '€', ':', '@']) {
        return false;
    }
    let lead = context::word_before(text, start).to_ascii_lowercase();
    let next = if rest.starts_with(' ') {
        context::word_after(text, end)
    } else {
        ""
    };
    let small = next.to_ascii_lowercase();
    if UNITS.contains(&&*small) {
        return false;
    }
    if LEADS.contains(&&*lead) {
        return true;
    }
    let named = next.starts_with(|first: char| first.is_uppercase() || first.is_ascii_digit());
    match &*lead {
        // `a 1977 Polish film`, and not `a 2000 mile trip`.
        "a" | "an" | "the" => !next.is_empty() && !small.ends_with('s') && small != "mile",
        _ => WEAK_LEADS.contains(&&*lead) && !named && (!small.ends_with('s') || is_verb(&small)),
    }
}

/// Common words with an `s` at their end that count nothing.
fn is_verb(word: &str) -> bool {
    matches!(
        word,
        "is" | "was" | "has" | "as" | "this" | "its" | "his" | "protects" | "says" | "applies"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};

    #[test]
    fn dates_are_found_with_their_time_of_day() {
        for (text, expected) in [
            ("When: 2000-04-16 11:34:35\nWhere", "2000-04-16 11:34:35"),
            ("at 2026-11-22T07:18:24.123Z.", "2026-11-22T07:18:24.123Z"),
            ("2024-02-29T10:00:00+01:00", "2024-02-29T10:00:00+01:00"),
            ("born on 2/8/1935.", "2/8/1935"),
            ("on 31.12.1999, then", "31.12.1999"),
            ("on 12/10/99 at", "12/10/99"),
            ("due 3rd of March, 2021", "3rd of March, 2021"),
            ("March 12, 1999 was", "March 12, 1999"),
            ("12-Mar-1999", "12-Mar-1999"),
            ("on Dec 5th we", "Dec 5th"),
            ("on 5 May we", "5 May"),
            ("in July 2019", "July 2019"),
            ("since 07/2019 we", "07/2019"),
            ("card expires 09/27.", "09/27"),
            ("on Tuesday morning", "Tuesday"),
            ("founded in 1977. Since", "1977"),
            ("is a 2017 Polish film", "2017"),
            ("Rights Act of 2001 protects", "2001"),
            ("２０００-０４-１６", "２０００-０４-１６"),
        ] {
            assert_eq!(found(text), [format!("date:{expected}")], "{text}");
        }
        assert_eq!(found_in("19991231", "dob"), ["date:19991231"]);
    }

    #[test]
    fn what_is_in_no_calendar_is_no_date() {
        for text in [
            "2023-02-29",
            "2023-13-01",
            "31/31/1999",
            "0/5/1999",
            "1.2.03",
            "13/2019",
            "3/4 of 12/13 teams",
            "expires in 1/2 hour",
            "2000-04/16",
            "30 Feb 2020",
            "1-2-3",
            "in 2000 miles",
            "a 2000 mile trip",
            "version 2019",
            "you may 5 times",
            "10.11.12.2013",
            "to 2000 people",
            "item 20011231",
            "someday",
            "every Monday",
            "the last Sunday before",
            "to 1987 74 Diakou Street",
            "1977",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
