//! URLs, found from their `://`, and domain names by themselves, found by their top-level domain.
//!
//! The list of top-level domains is short on purpose: all of the countries' and the generic ones that people use.
//! With the whole of it (`.zip`, `.name`, `.call`, …) half of all file names and many typing errors were domains.

use super::context::{self, Field};
use super::{Candidate, begins, ends};
use crate::Kind;

/// Countries' (ISO 3166, and `ac`, `eu`, `su`, `uk`).
const COUNTRIES: &str = "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs \
    bt bv bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi \
    fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir \
    is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn \
    mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw \
    py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm \
    tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw";

const GENERIC: &str = "aero agency app asia art bank biz blog cafe cat center chat city cloud club codes com company \
    coop coupons design dev digital edu email engineering events example expert finance foundation fun fund games \
    global gov group guru health help host info int invalid jobs land legal life live london love ltd market media \
    mil mobi money museum net network news ninja nyc online onion org page partners photo photos plus press pro \
    rocks sale school science services shop site social software solutions space store studio systems team tech \
    technology test tips today tools top travel tube tv university ventures video vip website wiki work works world \
    xxx xyz zone";

/// Endings of files that are countries' too. By themselves, with one dot, they are taken for files.
const FILES: &[&str] = &[
    "ai", "cc", "cs", "gz", "hs", "la", "md", "mk", "ml", "mm", "pl", "pm", "ps", "py", "rs", "sc",
    "sh", "so", "st", "tf", "ts", "vi",
];

const WORDS: &[&str] = &[
    "website", "site", "domain", "host", "hostname", "url", "web", "visit", "homepage", "webpage",
    "www",
];

pub(super) fn is_top_level(label: &str) -> bool {
    let lower = label.to_lowercase();
    lower.starts_with("xn--")
        || COUNTRIES
            .split_ascii_whitespace()
            .chain(GENERIC.split_ascii_whitespace())
            .any(|name| name == lower)
}

pub(super) fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= 63 * 4 && !label.starts_with('-') && !label.ends_with('-')
}

/// The host name that a text begins with, dots at its end aside.
pub(super) fn host(text: &str) -> &str {
    let text = &text[..text.floor_char_boundary(512)];
    let end = text
        .find(|character: char| !(character.is_alphanumeric() || matches!(character, '-' | '.')))
        .unwrap_or(text.len());
    text[..end].trim_end_matches(['.', '-'])
}

/// What has a scheme.
pub(super) fn urls(text: &str, out: &mut Vec<Candidate>) {
    let mut done = 0;
    for (colon, separator) in text.match_indices("://") {
        if colon < done {
            continue;
        }
        let scheme = text[done..colon]
            .bytes()
            .rev()
            .take(16)
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-'))
            .count();
        // A scheme begins with a letter.
        let Some(first) = text[colon - scheme..colon].find(|c: char| c.is_ascii_alphabetic())
        else {
            continue;
        };
        let after = colon + separator.len();
        let length = address(&text[after..]);
        if length > 0 {
            done = after + length;
            out.push(Candidate {
                divisible: true,
                ..Candidate::new(Kind::Url, colon - scheme + first, done)
            });
        }
    }
}

/// The length of an address up to white space or what is never in one, without the sentence's own marks.
fn address(text: &str) -> usize {
    let end = text
        .find(|character: char| {
            character.is_whitespace()
                || character.is_control()
                || matches!(
                    character,
                    '<' | '>' | '"' | '`' | '{' | '}' | '|' | '\\' | '^'
                )
        })
        .unwrap_or(text.len());
    let mut address = &text[..end];
    loop {
        let unbalanced = |open: char, close: char| {
            address.ends_with(close)
                && address.matches(close).count() > address.matches(open).count()
        };
        if address.ends_with(['.', ',', ';', ':', '!', '?', '\'', '*'])
            || unbalanced('(', ')')
            || unbalanced('[', ']')
        {
            let Some((last, _)) = address.char_indices().next_back() else {
                return 0;
            };
            address = &address[..last];
            // A long row of brackets is cut at once: what follows is counted anew for each.
            if end - address.len() > 64 {
                return address.trim_end_matches([')', ']', '.', ',']).len();
            }
        } else {
            return address.len();
        }
    }
}

/// What has no scheme.
pub(super) fn domains(text: &str, field: &Field, out: &mut Vec<Candidate>) {
    let mut at = 0;
    while let Some(found) = text[at..].find('.') {
        let dot = at + found;
        let start = text[at..dot]
            .rfind(|character: char| !(character.is_alphanumeric() || character == '-'))
            .map_or(at, |index| text.ceil_char_boundary(at + index + 1));
        let host = host(&text[start..]);
        if let Some(length) = domain(text, start, host, field) {
            let end = start + length;
            let end = end + trail(&text[end..]);
            out.push(Candidate::new(Kind::Url, start, end));
            at = end;
        } else {
            at = (start + host.len()).max(dot + 1);
        }
    }
}

/// The length of the domain name that a host's name is or begins with.
fn domain(text: &str, start: usize, host: &str, field: &Field) -> Option<usize> {
    if !begins(text, start) || text[..start].ends_with(['@', '.', '-', '/', '\\', '=', '%']) {
        return None;
    }
    let mut labels: Vec<&str> = host.split('.').collect();
    // `x.com.Then`: a sentence that begins without a space.
    if labels.len() > 2
        && labels[labels.len() - 1].starts_with(char::is_uppercase)
        && labels[0].starts_with(char::is_lowercase)
    {
        labels.pop();
    }
    let (last, rest) = labels.split_last()?;
    let second = rest.last()?;
    let length = labels.join(".").len();
    // `com.example`: names of programs are written from the other end.
    let reversed = matches!(labels[0], "com" | "org" | "net" | "io");
    if reversed
        || !labels.iter().all(|label| is_label(label))
        || !is_top_level(last)
        || second.bytes().all(|byte| byte.is_ascii_digit())
        || !(ends(text, start + length) || labels.len() < host.split('.').count())
    {
        return None;
    }
    let follows_a_path = text[start + length..].starts_with(['/', ':']);
    let certain = rest.len() > 1 && rest[0].eq_ignore_ascii_case("www")
        || follows_a_path
        || context::before(text, start, field, WORDS, &[]);
    let capitalised = last.starts_with(char::is_uppercase) && last.contains(char::is_lowercase);
    let doubtful = capitalised
        || second.chars().count() < 2
            && !matches!(&*last.to_lowercase(), "com" | "co" | "net" | "org")
        || rest.len() == 1 && FILES.contains(&&*last.to_lowercase());
    (certain || !doubtful).then_some(length)
}

/// The length of a port and a path.
fn trail(text: &str) -> usize {
    let port = text.strip_prefix(':').map_or(0, |port| {
        port.bytes().take(5).take_while(u8::is_ascii_digit).count()
    });
    let port = if port > 0 { port + 1 } else { 0 };
    if text[port..].starts_with('/') {
        port + address(&text[port..])
    } else {
        port
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};

    #[test]
    fn urls_and_domains_are_found_with_what_belongs_to_them() {
        for (text, expected) in [
            ("at https://www.UEarly.se/.", "https://www.UEarly.se/"),
            ("(http://a.com/b(c)?d=e#f)", "http://a.com/b(c)?d=e#f"),
            ("ftp://[::1]:21/x y", "ftp://[::1]:21/x"),
            ("http://localhost:8080, then", "http://localhost:8080"),
            ("see www.example.com!", "www.example.com"),
            ("on example.co.uk/a/b?c today", "example.co.uk/a/b?c"),
            (
                "host db-1.internal.example.com:5432",
                "db-1.internal.example.com:5432",
            ),
            ("see example.com.Then", "example.com"),
            ("<a href=\"https://a.de\">", "https://a.de"),
            ("bücher.example", "bücher.example"),
            (
                "ｗｗｗ．ｅｘａｍｐｌｅ．ｃｏｍ",
                "ｗｗｗ．ｅｘａｍｐｌｅ．ｃｏｍ",
            ),
        ] {
            assert_eq!(found(text), [format!("url:{expected}")], "{text}");
        }
        assert_eq!(found_in("script.pl", "website"), ["url:script.pl"]);
    }

    #[test]
    fn files_sentences_and_abbreviations_are_no_domains() {
        for text in [
            "main.rs",
            "a/b/c.py",
            "report.pdf",
            "the end.It was",
            "e.g. this",
            "i.e. that",
            "U.S. Army",
            "3.com",
            "com.example.Class",
            "obj.method()",
            "foo.com.json",
            "...",
            "a..b",
            "://",
            "x ://",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
