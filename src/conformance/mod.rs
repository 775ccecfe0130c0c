//! Puts the corpus's cases to a verifier: our own, or any program.

mod names;
mod program;
mod report;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anchorhold_attestation::{Anchor, Engine, Verifier};
use anchorhold_corpus::{Case, Corpus, Judgement, Verdict, anchors, judge};
use anyhow::Context as _;
use tokio::task::JoinSet;

pub(crate) use names::Name;
pub(crate) use report::Report;
pub(crate) use template::Template;

use names::Files;
use program::Ended;
use report::{Line, Outcome};

/// How a program is called.
pub(crate) enum Call {
    /// With words of its own making.
    Words(Template),
    /// By the shell; it finds everything in the environment.
    Shell(String),
}

/// A program that is asked.
pub(crate) struct Program {
    pub(crate) call: Call,
    /// What it takes beyond what its words name.
    pub(crate) takes: BTreeSet<Name>,
    pub(crate) limit: Duration,
    pub(crate) jobs: usize,
    /// As it was given.
    pub(crate) text: String,
}

/// Chains that our own verifier remembers from case to case, so that memory is judged too.
const REMEMBERED: usize = 16;

/// Asks our own verifier: with each engine, and once more with chains remembered.
pub(crate) fn ask_ours<'a>(corpus: &Corpus, cases: &[&'a Case]) -> anyhow::Result<Report<'a>> {
    let mut remembering: BTreeMap<&[String], Verifier> = BTreeMap::new();
    let mut lines = Vec::new();
    for case in cases {
        let anchors = anchors(case, &corpus.anchors)
            .with_context(|| format!("{}: an anchor is not usable", case.name))?;
        let remembers = remembering
            .entry(&case.arguments.anchors)
            .or_insert_with(|| Verifier::new(anchors.clone()).remembering(REMEMBERED));
        let judgements = [
            judge(
                case,
                &Verifier::new(anchors.clone()).with_engine(Engine::P384),
            ),
            judge(case, &Verifier::new(anchors).with_engine(Engine::AwsLcRs)),
            judge(case, remembers),
        ];
        // The first that is wrong speaks for all: a verdict that one way gives and another does not
        // is a failure too.
        let wrong = judgements
            .iter()
            .find(|judgement| !judgement.is(&case.verdict));
        lines.push(Line {
            case,
            outcome: wrong.map_or(Outcome::Passed, |wrong| match (&case.verdict, wrong) {
                (Verdict::Admit, _) => Outcome::WronglyRefused,
                (Verdict::Refuse(_), Judgement::Admitted) => Outcome::WronglyAdmitted,
                (Verdict::Refuse(_), Judgement::Refused { .. }) => Outcome::OtherReason,
            }),
            detail: match wrong.unwrap_or(&judgements[0]) {
                Judgement::Admitted => String::new(),
                Judgement::Refused { explanation, .. } => explanation.clone(),
            },
        });
    }
    Ok(Report {
        lines,
        verifier: format!(
            "anchorhold {}, computing with p384, with aws-lc-rs, and with chains remembered",
            env!("CARGO_PKG_VERSION")
        ),
    })
}

/// Asks a program, case by case, a few at a time.
pub(crate) async fn ask<'a>(
    corpus: &Corpus,
    cases: &[&'a Case],
    program: &Program,
) -> anyhow::Result<Report<'a>> {
    // Readable by its owner only, and gone with the value.
    let folder = tempfile::Builder::new()
        .prefix("anchorhold-conformance-")
        .tempdir()
        .context("no folder for the documents can be made")?;
    let anchors = write_anchors(corpus, folder.path())?;
    let mut takes = program.takes.clone();
    match &program.call {
        Call::Words(template) => takes.extend(template.names()),
        Call::Shell(_) => {}
    }

    let mut running: JoinSet<(usize, anyhow::Result<program::Run>)> = JoinSet::new();
    let mut results: BTreeMap<usize, (Outcome, String)> = BTreeMap::new();
    let finish = |(index, run): (usize, anyhow::Result<program::Run>)| {
        let run = run?;
        anyhow::Ok((index, judged(&cases[index].verdict, run)))
    };
    for (index, case) in cases.iter().enumerate() {
        let document = folder.path().join(format!("{index}.cbor"));
        let files = Files {
            document: document.clone(),
            anchors: case
                .arguments
                .anchors
                .iter()
                .filter_map(|name| anchors.get(name).cloned())
                .collect(),
        };
        let values = |name| names::values(case, &files, name);
        let command = match names::lacking(case, &files, &takes) {
            Some(reason) => Err(reason),
            None => match &program.call {
                Call::Words(template) => template.fill(values),
                Call::Shell(text) => Ok(["sh", "-c", text].map(str::to_owned).to_vec()),
            },
        };
        let command = match command {
            Ok(command) => command,
            Err(reason) => {
                results.insert(index, (Outcome::NotAsked, reason));
                continue;
            }
        };
        let variables: Vec<(String, Option<String>)> = Name::all()
            .map(|name| {
                let values = values(name);
                let joined = (!values.is_empty()).then(|| values.join("\n"));
                (name.variable(), joined)
            })
            .collect();
        if running.len() >= program.jobs.max(1)
            && let Some(done) = running.join_next().await
        {
            let (index, result) = finish(done.context("a case's task failed")?)?;
            results.insert(index, result);
        }
        fs::write(&document, &case.document)
            .with_context(|| format!("cannot write {}", document.display()))?;
        let limit = program.limit;
        running.spawn(async move {
            let run = program::run(&command, &variables, limit).await;
            // The next case needs its room; a file that stays goes with the folder.
            let _ = fs::remove_file(document);
            (index, run)
        });
    }
    while let Some(done) = running.join_next().await {
        let (index, result) = finish(done.context("a case's task failed")?)?;
        results.insert(index, result);
    }
    Ok(Report {
        lines: results
            .into_iter()
            .map(|(index, (outcome, detail))| Line {
                case: cases[index],
                outcome,
                detail,
            })
            .collect(),
        verifier: program.text.clone(),
    })
}

type AnchorFiles = BTreeMap<String, (std::path::PathBuf, std::path::PathBuf)>;

/// Each anchor in PEM and in DER.
fn write_anchors(corpus: &Corpus, folder: &Path) -> anyhow::Result<AnchorFiles> {
    corpus
        .anchors
        .iter()
        .map(|(name, text)| {
            let anchor = Anchor::from_pem(text)
                .with_context(|| format!("the anchor {name} is not usable"))?;
            let pem = folder.join(format!("{name}.pem"));
            let der = folder.join(format!("{name}.der"));
            fs::write(&pem, text)
                .and_then(|()| fs::write(&der, anchor.der()))
                .with_context(|| format!("cannot write {}", folder.display()))?;
            Ok((name.clone(), (pem, der)))
        })
        .collect()
}

fn judged(verdict: &Verdict, run: program::Run) -> (Outcome, String) {
    match (verdict, run.ended) {
        (Verdict::Admit, Ended::Admitted) | (Verdict::Refuse(_), Ended::Refused) => {
            (Outcome::Passed, run.said)
        }
        (Verdict::Refuse(_), Ended::Admitted) => (Outcome::WronglyAdmitted, run.said),
        (Verdict::Admit, Ended::Refused) => (Outcome::WronglyRefused, run.said),
        (_, Ended::Otherwise(how)) if run.said.is_empty() => (Outcome::Crashed, how),
        (_, Ended::Otherwise(how)) => (Outcome::Crashed, format!("{how}: {}", run.said)),
    }
}
