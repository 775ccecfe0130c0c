//! Postal codes: those of the United States behind a state or with four more digits, Canada's and the United
//! Kingdom's by their form; all others right behind a word that names them.

use regex::Regex;

use super::context::{self, Field};
use super::{Candidate, begins, ends};
use crate::Kind;

pub(super) const WORDS: &[&str] = &[
    "zip",
    "zipcode",
    "postcode",
    "postal",
    "postalcode",
    "plz",
    "pincode",
    "eircode",
    "cep",
];

/// Names of the code, and what may stand between them and it.
const LEAD: &str = r#"(?i)\b(?:zip|postal|post|plz|cep|eircode|pin)[ _-]?(?:codes?|number)?(?:\+4)?(?:[ :#=.'"-]|\b(?:is|was|of|are)\b)*\z"#;

/// What codes look like, from the longest.
const FORMS: &str = r"[0-9]{5}-[0-9]{3,4}|[0-9]{4}-[0-9]{3}|[0-9]{2}-[0-9]{3}|[0-9]{3} ?[0-9]{2,3}|[0-9]{4} ?[A-Za-z]{2}|[A-Za-z][0-9][A-Za-z] ?[0-9][A-Za-z][0-9]|[A-Za-z]{1,2}[0-9][A-Za-z0-9]? ?[0-9][A-Za-z]{2}|[A-Za-z]{2}-?[0-9]{4,5}|[0-9]{3,7}";

const STATES: &str = "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY \
    NC ND OH OK OR PA RI SC SD TN TX UT VT VA WA WV WI WY DC AS GU MP PR VI AA AE AP";

/// Their names, in front of a code at the end of a line, a sentence or a clause: `Texas 25000 people` is none.
const NAMES: &str = r"Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New (?:Hampshire|Jersey|Mexico|York)|(?:North|South) (?:Carolina|Dakota)|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|Tennessee|Texas|Utah|Vermont|(?:West )?Virginia|Washington|Wisconsin|Wyoming";

pub(super) struct Codes {
    own: Regex,
    form: Regex,
    lead: Regex,
}

impl Codes {
    pub(super) fn new() -> Self {
        let regex = |text: &str| Regex::new(text).expect("the expression is right");
        let states = STATES
            .split_ascii_whitespace()
            .collect::<Vec<_>>()
            .join("|");
        Self {
            own: regex(&format!(
                r"(?:{states})[, ]{{1,2}}(?<us>[0-9]{{5}}(?:-[0-9]{{4}})?)|(?:{NAMES})[, ]{{1,2}}(?<named>[0-9]{{5}}(?:-[0-9]{{4}})?)|(?<plus>[0-9]{{5}}-[0-9]{{4}})|(?<ca>[ABCEGHJ-NPRSTVXY][0-9][A-Z] [0-9][A-Z][0-9])|(?<uk>[A-PR-UWYZ][A-HK-Y]?[0-9][A-Z0-9]? [0-9][ABD-HJLNP-UW-Z]{{2}})"
            )),
            form: regex(FORMS),
            lead: regex(LEAD),
        }
    }

    pub(super) fn find(&self, text: &str, field: &Field, out: &mut Vec<Candidate>) {
        for found in self.own.captures_iter(text) {
            let whole = found.get_match();
            let code = ["us", "named", "plus", "ca", "uk"]
                .into_iter()
                .find_map(|name| found.name(name));
            if let Some(code) = code
                && begins(text, whole.start())
                && ends(text, code.end())
                && alone(text, whole.start(), code.end())
                && !(found.name("named").is_some() && counts(&text[code.end()..]))
            {
                out.push(Candidate::new(Kind::Zip, code.start(), code.end()));
            }
        }
        let named = field.names(WORDS);
        if !named && !may_name(text) {
            return;
        }
        for found in self.form.find_iter(text) {
            let (start, end) = (found.start(), found.end());
            if begins(text, start)
                && ends(text, end)
                && alone(text, start, end)
                && (named || self.lead.is_match(context::window(text, start)))
            {
                out.push(Candidate::new(Kind::Zip, start, end));
            }
        }
    }
}

/// Whether a name of such a code can be in a text. Quick, as most texts have none.
fn may_name(text: &str) -> bool {
    const NAMES: [&[u8]; 7] = [b"zip", b"pos", b"plz", b"cep", b"eir", b"pin", b"PLZ"];
    text.as_bytes()
        .windows(3)
        .any(|three| NAMES.iter().any(|name| three.eq_ignore_ascii_case(name)))
}

/// Whether no dash or dot leads on to more digits.
fn alone(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let mark = |byte: &u8| matches!(byte, b'-' | b'.' | b'/' | b',');
    let before = start >= 2 && mark(&bytes[start - 1]) && bytes[start - 2].is_ascii_digit();
    let after =
        bytes.get(end).is_some_and(mark) && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
    !before && !after
}

/// Whether a word follows that may be what a number counts.
fn counts(rest: &str) -> bool {
    rest.strip_prefix(' ')
        .is_some_and(|rest| rest.starts_with(char::is_lowercase))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};

    #[test]
    fn codes_are_found_behind_a_state_by_their_form_or_behind_their_name() {
        for (text, expected) in [
            ("Springfield, IL 62704", "62704"),
            ("Beverly Hills, CA, 90210-1234.", "90210-1234"),
            ("ZIP+4 is 90210-1234", "90210-1234"),
            ("Halifax B0J 2H0", "B0J 2H0"),
            ("London SW1A 1AA", "SW1A 1AA"),
            ("ZIP: 3520", "3520"),
            ("My zip code is 90010-170", "90010-170"),
            ("postal code 7412 SL", "7412 SL"),
            ("PLZ 10115", "10115"),
            ("zip: 394 13", "394 13"),
        ] {
            assert_eq!(found(text), [format!("zip:{expected}")], "{text}");
        }
        assert_eq!(found_in("1421", "zipCode"), ["zip:1421"]);
    }

    #[test]
    fn other_numbers_are_no_postal_codes() {
        for text in [
            "62704",
            "IL62704",
            "IL 6270",
            "IL 627041",
            "item B0J2H0",
            "unzipped 12345",
            "zip them, 12345 in all",
            "in Texas 25000 people",
            "Texas 2500",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
