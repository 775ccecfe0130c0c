//! The text of `--verifier`: words with placeholders, and groups in brackets that are there only where
//! a case has what they name. Runs nothing, and knows no shell.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};

use super::names::Name;

/// A command before a case is known.
#[derive(Debug)]
pub(crate) struct Template {
    items: Vec<Item>,
}

#[derive(Debug)]
enum Item {
    Word(Word),
    /// Left out where one of its names has no value, repeated where one has several.
    Group(Vec<Word>),
}

type Word = Vec<Piece>;

#[derive(Debug)]
enum Piece {
    Text(String),
    /// `{name}`
    Value(Name),
    /// `{?name}`: nothing, where the name has a value.
    If(Name),
}

impl Piece {
    fn name(&self) -> Option<Name> {
        match self {
            Piece::Text(_) => None,
            Piece::Value(name) | Piece::If(name) => Some(*name),
        }
    }
}

impl Item {
    fn names(&self) -> impl Iterator<Item = Name> {
        let words = match self {
            Item::Word(word) => std::slice::from_ref(word),
            Item::Group(words) => words,
        };
        words.iter().flatten().filter_map(Piece::name)
    }
}

impl Template {
    /// Reads the text. Words end at blanks; quotes and backslashes keep them together as in a shell.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Template> {
        let mut items = Vec::new();
        let mut group: Option<Vec<Word>> = None;
        for token in tokens(text)? {
            match token {
                Token::Open => {
                    ensure!(group.is_none(), "a group in brackets holds no other");
                    group = Some(Vec::new());
                }
                Token::Close => {
                    let item = Item::Group(group.take().context("`]` without a `[` before it")?);
                    ensure!(
                        item.names().next().is_some(),
                        "a group in brackets without a placeholder would always be there"
                    );
                    items.push(item);
                }
                Token::Word(text) => {
                    let word = pieces(&text)?;
                    match &mut group {
                        Some(words) => words.push(word),
                        None => items.push(Item::Word(word)),
                    }
                }
            }
        }
        ensure!(group.is_none(), "`[` without a `]` after it");
        ensure!(
            matches!(items.first(), Some(Item::Word(_))),
            "it must begin with a program"
        );
        Ok(Template { items })
    }

    /// All names that it has a place for.
    pub(crate) fn names(&self) -> BTreeSet<Name> {
        self.items.iter().flat_map(Item::names).collect()
    }

    /// The command for a case, program and arguments; or why the case cannot be put into it.
    pub(crate) fn fill(&self, values: impl Fn(Name) -> Vec<String>) -> Result<Vec<String>, String> {
        let mut command = Vec::new();
        for item in &self.items {
            match item {
                Item::Word(word) => {
                    for name in item.names() {
                        match values(name).len() {
                            1 => {}
                            0 => {
                                return Err(format!(
                                    "the command always has {{{name}}}, and the case has none"
                                ));
                            }
                            _ => {
                                return Err(format!(
                                    "the case has several {{{name}}}, and the command has room for \
                                     one (brackets around it are repeated)"
                                ));
                            }
                        }
                    }
                    command.extend(filled(word, &values, 0));
                }
                Item::Group(words) => {
                    let counts: Vec<usize> = item.names().map(|name| values(name).len()).collect();
                    if counts.contains(&0) {
                        continue;
                    }
                    for turn in 0..counts.into_iter().max().unwrap_or(0) {
                        command.extend(words.iter().filter_map(|word| filled(word, &values, turn)));
                    }
                }
            }
        }
        Ok(command)
    }
}

/// A word with its values. `None` where it was nothing but conditions.
fn filled(word: &Word, values: &impl Fn(Name) -> Vec<String>, turn: usize) -> Option<String> {
    if !word.is_empty() && word.iter().all(|piece| matches!(piece, Piece::If(_))) {
        return None;
    }
    let mut text = String::new();
    for piece in word {
        match piece {
            Piece::Text(part) => text.push_str(part),
            Piece::If(_) => {}
            Piece::Value(name) => {
                let values = values(*name);
                // One value stands beside each of several others.
                let value = values.get(turn).or(values.last());
                text.push_str(value.map_or("", String::as_str));
            }
        }
    }
    Some(text)
}

enum Token {
    Open,
    Close,
    Word(String),
}

/// Splits at blanks. Brackets count at a word's beginning and end, where they are not quoted.
fn tokens(text: &str) -> anyhow::Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut closes = 0_usize;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let unquoted_bracket = character == ']';
        if closes > 0 && !unquoted_bracket && !character.is_whitespace() {
            // The brackets were within the word after all.
            word.get_or_insert_default().push_str(&"]".repeat(closes));
            closes = 0;
        }
        match character {
            blank if blank.is_whitespace() => {
                tokens.extend(word.take().map(Token::Word));
                tokens.extend((0..std::mem::take(&mut closes)).map(|_| Token::Close));
            }
            '[' if word.is_none() => tokens.push(Token::Open),
            ']' => closes += 1,
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().context("a quote ' is not closed")? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().context("a quote \" is not closed")? {
                        '"' => break,
                        '\\' if matches!(characters.peek(), Some('"' | '\\')) => {
                            word.extend(characters.next());
                        }
                        other => word.push(other),
                    }
                }
            }
            '\\' => {
                let next = characters.next().context("nothing follows a backslash")?;
                word.get_or_insert_default().push(next);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    tokens.extend(word.take().map(Token::Word));
    tokens.extend((0..closes).map(|_| Token::Close));
    Ok(tokens)
}

fn pieces(text: &str) -> anyhow::Result<Word> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let Some((name, after)) = after.split_once('}') else {
            bail!("`{{` without a `}}` after it in {text:?}");
        };
        pieces.push(match name.strip_prefix('?') {
            Some(name) => Piece::If(name.parse().map_err(anyhow::Error::msg)?),
            None => Piece::Value(name.parse().map_err(anyhow::Error::msg)?),
        });
        rest = after;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: Name) -> Vec<String> {
        let values: &[&str] = match name {
            Name::Document => &["/tmp/a document"],
            Name::Nonce => &["00ff"],
            Name::Anchor => &["one.pem", "two.pem"],
            Name::AnchorDer => &["one.der", "two.der"],
            Name::AnyImage => &["yes"],
            _ => &[],
        };
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn filled(text: &str) -> Result<Vec<String>, String> {
        Template::parse(text)
            .map_err(|error| error.to_string())?
            .fill(values)
    }

    #[test]
    fn values_are_words_whatever_they_hold() {
        assert_eq!(
            filled("verify --in={document} 'a b' \"c \\\"d\" e\\ f ''"),
            Ok(
                ["verify", "--in=/tmp/a document", "a b", "c \"d", "e f", ""]
                    .map(str::to_owned)
                    .to_vec()
            )
        );
    }

    #[test]
    fn groups_are_left_out_and_repeated() {
        assert_eq!(
            filled(
                "verify [--nonce {nonce}] [--user-data {user-data}] [-a {anchor} -d{anchor-der}]"
            ),
            Ok([
                "verify",
                "--nonce",
                "00ff",
                "-a",
                "one.pem",
                "-done.der",
                "-a",
                "two.pem",
                "-dtwo.der"
            ]
            .map(str::to_owned)
            .to_vec())
        );
        assert_eq!(
            filled("verify [--any {?any-image}] [--debug {?allow-debug}] '[x]' a]b"),
            Ok(["verify", "--any", "[x]", "a]b"]
                .map(str::to_owned)
                .to_vec())
        );
    }

    #[test]
    fn what_has_no_value_or_several_needs_brackets() {
        let error = filled("verify {user-data}").unwrap_err();
        assert!(error.contains("the case has none"), "{error}");
        let error = filled("verify {anchor}").unwrap_err();
        assert!(error.contains("several {anchor}"), "{error}");
    }

    #[test]
    fn broken_texts_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "begin with a program"),
            ("[{nonce}]", "begin with a program"),
            ("verify {nounce}", "\"nounce\" is no name"),
            ("verify {pcr32}", "\"pcr32\" is no name"),
            ("verify {nonce", "`{` without"),
            ("verify [--nonce {nonce}", "`[` without"),
            ("verify --nonce {nonce}]", "`]` without"),
            ("verify [--nonce]", "without a placeholder"),
            ("verify [a [b {nonce}]]", "holds no other"),
            ("verify 'a", "not closed"),
            ("verify \"a", "not closed"),
            ("verify \\", "backslash"),
        ] {
            let error = filled(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
