//! The rules that single values must keep. Each returns the value in its normal form, or what is wrong and what to
//! write instead; none looks at anything but the value.

use std::net::Ipv6Addr;

use crate::egress::Pattern;

/// Why a value is refused, in the words of an error message.
pub(crate) struct Reason {
    pub(crate) problem: &'static str,
    pub(crate) remedy: &'static str,
}

type Checked = Result<String, Reason>;

fn refuse<T>(problem: &'static str, remedy: &'static str) -> Result<T, Reason> {
    Err(Reason { problem, remedy })
}

/// Names for people: they end in terminals and JSON.
pub(crate) fn label(value: &str) -> Checked {
    if value.is_empty() || value.chars().count() > 128 || value.chars().any(char::is_control) {
        return refuse(
            "is empty, too long or has control characters",
            "write 1 to 128 printable characters",
        );
    }
    Ok(value.to_owned())
}

/// The job's program: never looked up, so that the measured manifest says exactly which file runs.
pub(crate) fn program(value: &str) -> Checked {
    const REMEDY: &str =
        "name the program by its plain absolute path inside the image, such as \"/job\"";
    if !value.starts_with('/') || value.len() > 4095 || value.contains('\0') {
        return refuse("does not begin with an absolute path", REMEDY);
    }
    if value[1..]
        .split('/')
        .any(|part| matches!(part, "" | "." | ".."))
    {
        return refuse("has an empty part, `.` or `..` in its path", REMEDY);
    }
    if value == "/init" || value == "/anchorhold" || value.starts_with("/anchorhold/") {
        return refuse("names a file of the enclave's runtime", REMEDY);
    }
    Ok(value.to_owned())
}

/// The job's working folder.
pub(crate) fn folder(value: &str) -> Checked {
    const REMEDY: &str =
        "name a folder by its plain absolute path inside the image, such as \"/srv\"";
    if !value.starts_with('/') || value.len() > 4095 || value.contains('\0') {
        return refuse("is no absolute path", REMEDY);
    }
    if value != "/"
        && value[1..]
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
    {
        return refuse("has an empty part, `.` or `..` in its path", REMEDY);
    }
    Ok(value.to_owned())
}

/// `uid:gid`
pub(crate) fn user(value: &str) -> Checked {
    const REMEDY: &str = "write numbers, such as \"1000:1000\"";
    let Some(user) = split_user(value) else {
        return refuse("is not of the form uid:gid", REMEDY);
    };
    if user.uid == 0 || user.gid == 0 {
        return refuse("names root, and a job never runs as root", REMEDY);
    }
    Ok(value.to_owned())
}

/// Digits only, without zeros in front, so that there is one spelling. The last number means "no change" to Linux.
pub(crate) fn split_user(value: &str) -> Option<crate::User> {
    let (uid, gid) = value.split_once(':')?;
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let plain = plain && (text == "0" || !text.starts_with('0'));
        plain
            .then(|| text.parse::<u32>().ok())
            .flatten()
            .filter(|number| *number != u32::MAX)
    };
    Some(crate::User {
        uid: number(uid)?,
        gid: number(gid)?,
    })
}

pub(crate) fn argument(value: &str) -> Checked {
    no_nul(
        value,
        "remove the NUL: no program can receive it in an argument",
    )
}

pub(crate) fn variable_value(value: &str) -> Checked {
    no_nul(
        value,
        "remove the NUL: no program can receive it in its environment",
    )
}

pub(crate) fn variable_name(value: &str) -> Checked {
    let mut bytes = value.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return refuse(
            "is no name of an environment variable",
            "use letters, digits and _, not beginning with a digit",
        );
    }
    Ok(value.to_owned())
}

pub(crate) fn file(value: &str) -> Checked {
    if value.is_empty() || value.contains('\0') {
        return refuse(
            "is no file name",
            "name a PEM file by its path from the manifest's folder",
        );
    }
    Ok(value.to_owned())
}

/// Key ID, key ARN, alias or alias ARN, as AWS KMS limits `KeyId`.
pub(crate) fn key_id(value: &str) -> Checked {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    if value.is_empty() || value.len() > 2048 || !value.bytes().all(allowed) {
        return refuse(
            "is no key identifier",
            "write a key ID, an alias such as \"alias/cards\", or an ARN",
        );
    }
    Ok(value.to_owned())
}

pub(crate) fn region(value: &str) -> Checked {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if value.is_empty() || value.len() > 64 || !value.bytes().all(allowed) {
        return refuse("is no region", "write a region such as \"us-east-1\"");
    }
    Ok(value.to_owned())
}

/// A path and perhaps a query, as they stand in a request's first line.
pub(crate) fn request_path(value: &str) -> Checked {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !value.starts_with('/') || value.len() > 1024 || !value.bytes().all(plain) {
        return refuse(
            "is no path of a request",
            "write a path such as \"/health\", everything else than plain ASCII as %XX",
        );
    }
    Ok(value.to_owned())
}

/// Secrets are file names in the enclave and path segments in requests.
pub(crate) fn secret_name(value: &str) -> Checked {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=64).contains(&value.len()) || !value.bytes().all(allowed) {
        return refuse(
            "is no name for a secret",
            "use 1 to 64 characters from a-z, 0-9 and -",
        );
    }
    Ok(value.to_owned())
}

/// A secret that the manifest names elsewhere.
pub(crate) fn one_of<T>(value: &str, known: &std::collections::BTreeMap<String, T>) -> Checked {
    if !known.contains_key(value) {
        return refuse(
            "names no secret of this manifest",
            "add a table [secrets.NAME] for it",
        );
    }
    Ok(value.to_owned())
}

/// Steps with dots between them, and perhaps `[]` behind them; a backslash before a dot, a bracket or itself.
pub(crate) fn field_name(value: &str) -> Checked {
    const REMEDY: &str = "write \"pan\", \"card.pan\" or \"emails[]\", and a backslash before dots and brackets in names";
    let mut steps = 1;
    let mut empty = true;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        let good = match character {
            '\\' => matches!(characters.next(), Some('\\' | '.' | '[' | ']')),
            '.' => {
                steps += 1;
                !std::mem::replace(&mut empty, true)
            }
            '[' => !empty && characters.next() == Some(']') && characters.as_str().is_empty(),
            ']' => false,
            _ => true,
        };
        if !good {
            return refuse("is no name of a field", REMEDY);
        }
        if character != '.' {
            empty = false;
        }
    }
    if empty || steps > 32 || value.len() > 1024 {
        return refuse("is no name of a field", REMEDY);
    }
    Ok(value.to_owned())
}

/// The field that tells a row: one value.
pub(crate) fn row_name(value: &str) -> Checked {
    let value = field_name(value)?;
    if value.ends_with("[]") {
        return refuse("names several values", "name one, such as \"id\"");
    }
    Ok(value)
}

/// Names in an encryption context.
pub(crate) fn context_name(value: &str) -> Checked {
    if value.is_empty() || value.len() > 256 {
        return refuse("is empty or too long", "use 1 to 256 bytes");
    }
    if value.starts_with("anchorhold:") || value.starts_with("aws-crypto-") {
        return refuse(
            "begins with anchorhold: or aws-crypto-, which are given by others",
            "use another name",
        );
    }
    Ok(value.to_owned())
}

/// Values in an encryption context.
pub(crate) fn context_value(value: &str) -> Checked {
    if value.is_empty() || value.len() > 1024 {
        return refuse("is empty or too long", "use 1 to 1024 bytes");
    }
    Ok(value.to_owned())
}

/// `https://host[:port]` to `host:port`.
pub(crate) fn endpoint_authority(value: &str) -> Checked {
    const REMEDY: &str =
        "write \"https://host\" or \"https://host:port\" without user, path or query";
    let Some(rest) = value.strip_prefix("https://") else {
        return refuse(
            "does not begin with https://",
            "use https: the key service is only reached over TLS",
        );
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let Some((host, port)) = split_target(rest) else {
        return refuse("is no endpoint of the form https://host:port", REMEDY);
    };
    let port = match port {
        None => 443,
        Some(port) => match port_number(port) {
            Some(port) => port,
            None => return refuse("has a port that is no number from 1 to 65535", REMEDY),
        },
    };
    Ok(format!("{}:{port}", host.to_ascii_lowercase()))
}

/// What may be dialled, in its one spelling.
pub(crate) fn pattern(value: &str) -> Checked {
    const REMEDY: &str = "write \"host:port\", \"*.example.com:443\" (one label in the star's place) or \"10.0.0.0/8:443\"";
    match value.parse::<Pattern>() {
        Ok(pattern) => Ok(pattern.to_string()),
        Err(_) => refuse("permits no target", REMEDY),
    }
}

/// Host and port, the host being a name, an IPv4 address or an IPv6 address in brackets.
fn split_target(value: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = if value.starts_with('[') {
        let end = value.find(']')? + 1;
        let (host, rest) = value.split_at(end);
        host[1..end - 1].parse::<Ipv6Addr>().ok()?;
        (
            host,
            if rest.is_empty() {
                None
            } else {
                Some(rest.strip_prefix(':')?)
            },
        )
    } else {
        let (host, port) = match value.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (value, None),
        };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return None;
        }
        (host, port)
    };
    Some((host, port))
}

/// Digits only: `+443` and `0443` would compare unequal to the same port written plainly.
fn port_number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

fn no_nul(value: &str, remedy: &'static str) -> Checked {
    if value.contains('\0') {
        refuse("contains a NUL character", remedy)
    } else {
        Ok(value.to_owned())
    }
}

/// The known word with the smallest edit distance, if it is close enough to be what was meant.
pub(crate) fn nearest(word: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance. The first word comes from the manifest, and is cut so that the work stays small.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
