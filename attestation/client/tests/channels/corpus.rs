//! Every document of the conformance corpus, given to a client as the answer to its question. None makes a channel: not
//! those that a verifier must refuse, and not those that it must admit, since they are of other questions. What is wrong
//! with a document's form is said by the same name.

use anchorhold_client::{ConnectError, Connector, Expectations};
use anchorhold_corpus::{Corpus, Verdict, anchors};

use crate::stage::{Liar, http};

#[tokio::test(flavor = "multi_thread")]
async fn no_document_of_the_corpus_makes_a_channel() {
    let corpus = Corpus::embedded().expect("the corpus");
    let liar = Liar::new();
    let (mut asked, mut by_name, mut genuine) = (0, 0, 0);
    for case in &corpus.cases {
        // As lenient as a caller can be.
        let anchors = anchors(case, &corpus.anchors).expect("anchors");
        let lenient = Expectations::new().any_image().allow_debug(true);
        let connector = Connector::new(anchors, lenient);
        let answer = http(&case.document);
        let outcome = liar
            .answers(&connector, move |_| async move { answer })
            .await;
        let Err(error) = outcome else {
            panic!("{}: {outcome:?}", case.name);
        };
        asked += 1;
        let form = match &error {
            ConnectError::Form(error) => Some(error.name()),
            _ => None,
        };
        match (&case.verdict, form) {
            (Verdict::Refuse(names), Some(found)) => {
                // Unknown keys are refused here, whatever the case says.
                if !case.arguments.ignore_unknown_keys {
                    assert!(names.contains(found), "{}: {found}", case.name);
                }
                by_name += 1;
            }
            (Verdict::Admit, Some(found)) => {
                assert!(case.arguments.ignore_unknown_keys, "{}: {found}", case.name);
            }
            (Verdict::Admit, None) => {
                assert!(error.is_refusal(), "{}: {error}", case.name);
                genuine += 1;
            }
            (Verdict::Refuse(_), None) => {}
        }
    }
    // All of it was asked, and much of it for what it is about.
    assert!(asked >= 368, "{asked} cases");
    assert!(
        by_name >= 130 && genuine >= 60,
        "{by_name} by name, {genuine} genuine"
    );
}
