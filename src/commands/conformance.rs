//! `anchorhold conformance`: puts the conformance corpus to a verifier. Exit code 0: every case that
//! was asked passed; 1: some did not, or none was asked; 2: unusable input.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anchorhold_corpus::{Case, Corpus, Level};
use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::json;

use crate::conformance::{Call, Name, Program, Report, Template, ask, ask_ours};
use crate::errors::one_line;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold conformance                     # our own verifier\n  \
    anchorhold conformance --verifier 'verify --root {anchor} --time {at-seconds} {document}'\n  \
    anchorhold conformance --verifier 'verify [--nonce {nonce}] [--pcr0 {pcr0}] [--debug {?allow-debug}] …'\n  \
    anchorhold conformance --shell --takes anchor,at-seconds --verifier 'verify < \"$ANCHORHOLD_DOCUMENT\"'\n\n\
    The verifier's exit code 0 is admitted, 1 refused; anything else counts as a crash. What is in \
    brackets is left out where the case does not have it, and repeated where it has several; \
    {?name} is nothing, where the case has it. A case is asked only of a verifier that takes all that \
    it needs.\n\
    Placeholders: case, document, anchor, anchor-der, judge-at, at, at-seconds, at-ms, max-age-seconds, \
    max-age-ms, max-skew-seconds, max-skew-ms, pcr0 to pcr31, pcr, no-value, nonce, user-data, \
    public-key, module-id, any-image, allow-debug, ignore-unknown-keys. Each is in the environment too, \
    as ANCHORHOLD_NONCE and so on.\n\
    Exit code: 0 all that was asked passed, 1 something did not or nothing was asked, 2 unusable input.")]
pub(crate) struct Arguments {
    /// The verifier's command, with placeholders; our own verifier where this is left out
    #[arg(long, value_name = "COMMAND")]
    verifier: Option<String>,
    /// Hand the command to `sh -c` as it is; it finds what the cases say in the environment
    #[arg(long, requires = "verifier")]
    shell: bool,
    /// What the verifier takes beyond the placeholders in its command
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        requires = "verifier"
    )]
    takes: Vec<Name>,
    /// A corpus to use instead of the one built in
    #[arg(long, value_name = "FOLDER")]
    corpus: Option<PathBuf>,
    /// Only this group, or this case
    #[arg(long, value_name = "GROUP[/CASE]")]
    only: Vec<String>,
    /// Leave out the cases that only prudence demands
    #[arg(long)]
    must: bool,
    /// Verifiers that run at once
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    jobs: usize,
    /// How long a verifier may take for one case
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// Print JSON, every case in it
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match judge(arguments) {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
        Err(error) => {
            let said = one_line(error.as_ref());
            if arguments.json {
                println!("{:#}", json!({ "passed": false, "unusable": said }));
            }
            eprintln!("anchorhold: {said}");
            ExitCode::from(2)
        }
    }
}

fn judge(arguments: &Arguments) -> anyhow::Result<bool> {
    let corpus = match &arguments.corpus {
        Some(folder) => Corpus::open(folder).context("the corpus is not usable")?,
        None => Corpus::embedded()?,
    };
    let cases = chosen(arguments, &corpus)?;
    let report = match &arguments.verifier {
        None => ask_ours(&corpus, &cases)?,
        Some(text) => {
            let call = if arguments.shell {
                Call::Shell(text.clone())
            } else {
                let template = Template::parse(text)
                    .with_context(|| format!("--verifier {text:?} is not usable"))?;
                Call::Words(template)
            };
            let program = Program {
                call,
                takes: arguments.takes.iter().copied().collect(),
                limit: Duration::from_secs(arguments.timeout),
                jobs: arguments.jobs,
                text: text.clone(),
            };
            super::block_on(ask(&corpus, &cases, &program))?
        }
    };
    print(arguments, &report);
    Ok(report.passed())
}

fn chosen<'a>(arguments: &Arguments, corpus: &'a Corpus) -> anyhow::Result<Vec<&'a Case>> {
    for wanted in &arguments.only {
        ensure!(
            corpus.cases.iter().any(|case| is(case, wanted)),
            "--only {wanted:?} is neither a group nor a case; groups are {}",
            corpus.groups().join(", ")
        );
    }
    Ok(corpus
        .cases
        .iter()
        .filter(|case| !arguments.must || case.level == Level::Must)
        .filter(|case| {
            arguments.only.is_empty() || arguments.only.iter().any(|wanted| is(case, wanted))
        })
        .collect())
}

fn is(case: &Case, wanted: &str) -> bool {
    case.name == wanted || case.group() == wanted
}

fn print(arguments: &Arguments, report: &Report<'_>) {
    if arguments.json {
        println!("{:#}", report.as_json());
    } else {
        println!("{}\n", report.verifier);
        print!("{}", report.for_people());
    }
}
