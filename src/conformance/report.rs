//! What came of each case, as a table and a list for people, and as JSON. Decides nothing.

use std::fmt::Write as _;

use anchorhold_corpus::{Case, Level, Verdict};
use serde_json::{Value, json};

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It must be refused.
    WronglyAdmitted,
    /// It must be admitted.
    WronglyRefused,
    /// Rightly refused, for another reason than is demanded of our own verifier.
    OtherReason,
    /// Neither admitted nor refused.
    Crashed,
    NotAsked,
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Passed, "passed"),
    (Outcome::WronglyAdmitted, "wrongly admitted"),
    (Outcome::WronglyRefused, "wrongly refused"),
    (Outcome::OtherReason, "other reason"),
    (Outcome::Crashed, "crashed"),
    (Outcome::NotAsked, "not asked"),
];

impl Outcome {
    fn name(&self) -> &'static str {
        OUTCOMES
            .iter()
            .find(|(outcome, _)| outcome == self)
            .map_or("", |(_, name)| name)
    }

    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self, Outcome::Passed | Outcome::NotAsked)
    }
}

/// A case and what came of it.
pub(crate) struct Line<'a> {
    pub(crate) case: &'a Case,
    pub(crate) outcome: Outcome,
    /// What the verifier said, or why it was not asked.
    pub(crate) detail: String,
}

pub(crate) struct Report<'a> {
    /// In the corpus's order.
    pub(crate) lines: Vec<Line<'a>>,
    /// Who was asked.
    pub(crate) verifier: String,
}

impl Report<'_> {
    /// At least one case was asked, and all that were asked passed.
    pub(crate) fn passed(&self) -> bool {
        self.lines
            .iter()
            .any(|line| line.outcome == Outcome::Passed)
            && !self.lines.iter().any(|line| line.outcome.is_failure())
    }

    fn count(&self, group: Option<&str>, counts: impl Fn(&Outcome) -> bool) -> usize {
        self.lines
            .iter()
            .filter(|line| group.is_none_or(|group| line.case.group() == group))
            .filter(|line| counts(&line.outcome))
            .count()
    }

    fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.lines.iter().map(|line| line.case.group()).collect();
        groups.dedup();
        groups
    }

    /// The outcomes that have a column. One of them only our own verifier can have.
    fn columns(&self) -> impl Iterator<Item = &'static (Outcome, &'static str)> {
        OUTCOMES.iter().filter(|(outcome, _)| {
            *outcome != Outcome::OtherReason || self.count(None, |it| it == outcome) > 0
        })
    }

    /// For people: the table, then each failure with its reason.
    pub(crate) fn for_people(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{:<10}{:>7}", "", "asked");
        for (_, name) in self.columns() {
            let _ = write!(text, "{name:>width$}", width = name.len() + 2);
        }
        text.push('\n');
        let rows = self.groups().into_iter().map(Some).chain([None]);
        for group in rows {
            let asked = self.count(group, |outcome| *outcome != Outcome::NotAsked);
            let _ = write!(text, "{:<10}{asked:>7}", group.unwrap_or("all"));
            for (outcome, name) in self.columns() {
                let count = self.count(group, |it| it == outcome);
                let _ = write!(text, "{count:>width$}", width = name.len() + 2);
            }
            text.push('\n');
        }
        for line in self.lines.iter().filter(|line| line.outcome.is_failure()) {
            let level = match line.case.level {
                Level::Must => "",
                Level::Should => " (should)",
            };
            let _ = write!(
                text,
                "\n{}: {}{level}\n    {}\n",
                line.outcome.name(),
                line.case.name,
                line.case.why
            );
            if let Some(source) = &line.case.source {
                let _ = writeln!(text, "    {source}");
            }
            if !line.detail.is_empty() {
                let _ = writeln!(text, "    it said: {}", harmless(&line.detail));
            }
        }
        text
    }

    /// All of it.
    pub(crate) fn as_json(&self) -> Value {
        let tally = |group: Option<&str>| {
            let mut counts: serde_json::Map<String, Value> = OUTCOMES
                .iter()
                .map(|(outcome, name)| {
                    let count = self.count(group, |it| it == outcome);
                    (name.replace(' ', "_"), count.into())
                })
                .collect();
            let asked = self.count(group, |outcome| *outcome != Outcome::NotAsked);
            counts.insert("asked".to_owned(), asked.into());
            Value::Object(counts)
        };
        let groups: serde_json::Map<String, Value> = self
            .groups()
            .into_iter()
            .map(|group| (group.to_owned(), tally(Some(group))))
            .collect();
        let cases: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                let (verdict, refusal) = match &line.case.verdict {
                    Verdict::Admit => ("admit", json!([])),
                    Verdict::Refuse(names) => ("refuse", json!(names)),
                };
                json!({
                    "name": line.case.name,
                    "outcome": line.outcome.name().replace(' ', "_"),
                    "verdict": verdict,
                    "refusal": refusal,
                    "level": line.case.level.name(),
                    "why": line.case.why,
                    "source": line.case.source,
                    "detail": line.detail,
                })
            })
            .collect();
        json!({
            "verifier": self.verifier,
            "passed": self.passed(),
            "all": tally(None),
            "groups": groups,
            "cases": cases,
        })
    }
}

/// The beginning of what a verifier printed, in one line that cannot steer the terminal.
fn harmless(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .take(200)
        .flat_map(|character| {
            let steers = character.is_control() || !(' '..='~').contains(&character);
            let escaped = steers.then(|| character.escape_default());
            let plain = (!steers).then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_verifier_prints_cannot_steer_the_terminal() {
        assert_eq!(
            harmless("refused:\n\t'no'\u{1b}[2J \u{202e}"),
            "refused: 'no'\\u{1b}[2J \\u{202e}"
        );
        assert_eq!(harmless(&"a".repeat(1000)).len(), 200);
    }
}
