//! A parent in the middle: swapped certificates, swapped documents, both, replays, cuts. No channel comes of any.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anchorhold_channel::{Nonce, user_data};
use anchorhold_client::{ConnectError, Connector, Expectations};
use anchorhold_enclave::nsm::Claims;
use anchorhold_simulator::DevelopmentRoot;

use crate::stage::{
    Asked, Enclave, IMAGE, Liar, anchor, connector, differences, http, papers, pcr, simulated,
};

/// What the enclave answers on a channel of the parent's own to a question with this nonce.
async fn relayed(enclave: &Enclave, nonce: &[u8]) -> Vec<u8> {
    let nonce = Nonce::from_bytes(nonce).expect("a nonce");
    enclave.ask_as_a_stranger(&nonce.to_string()).await
}

#[tokio::test]
async fn a_liar_whose_papers_are_all_in_order_is_believed_so_that_the_lies_below_are_told_apart() {
    let root = DevelopmentRoot::generate().expect("a root");
    let nsm = simulated(&root, IMAGE, false);
    let channel = Liar::new()
        .answers(&connector(&root), move |asked| async move {
            http(&nsm.document(asked.claims(), SystemTime::now()))
        })
        .await
        .expect("a server that is the enclave in all but name");
    assert_eq!(channel.admitted().pcr(0), Some(pcr(IMAGE)));
}

#[tokio::test]
async fn a_swapped_certificate_is_seen_by_its_key_and_its_channel() {
    let enclave = Arc::new(Enclave::new());
    let behind = Arc::clone(&enclave);
    let error = Liar::new()
        .answers(&enclave.connector(), move |asked| async move {
            http(&relayed(&behind, &asked.nonce).await)
        })
        .await
        .expect_err("a document of another channel");
    assert_eq!(differences(&error), ["public-key", "user-data"]);
    assert!(error.is_refusal());
}

#[tokio::test]
async fn the_enclave_s_certificate_without_its_key_finishes_no_handshake() {
    let enclave = Enclave::new();
    let mut liar = Liar::new();
    // Whoever connects is shown the certificate; the key stays in the enclave.
    liar.papers.certificate = enclave.certificate().await;
    let outcome = liar.mismatched(&enclave.connector()).await;
    let error = outcome.expect_err("a handshake that is signed by another key");
    assert!(
        matches!(
            &error,
            ConnectError::Tls(rustls::Error::InvalidCertificate(_))
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_document_under_a_root_of_the_parent_s_own_is_not_believed() {
    let enclave = Enclave::new();
    let own = DevelopmentRoot::generate().expect("a root");
    let nsm = simulated(&own, IMAGE, false);
    let error = Liar::new()
        .answers(&enclave.connector(), move |asked| async move {
            http(&nsm.document(asked.claims(), SystemTime::now()))
        })
        .await
        .expect_err("a document under another root");
    assert!(matches!(error, ConnectError::Untrue(_)), "{error}");
}

#[tokio::test]
async fn certificate_and_document_of_an_enclave_of_another_image_are_refused_for_its_pcrs() {
    let enclave = Enclave::new();
    let other = Enclave::with(
        DevelopmentRoot::generate().expect("a root"),
        0xbb,
        crate::stage::limits(),
    );
    // A whole other enclave, honest, behind the same parent.
    let error = connector(&other.root)
        .connect("enclave.example", other.dial())
        .await
        .expect_err("another image");
    assert_eq!(differences(&error), ["pcr"]);
    // And it is taken by who wants it.
    let wants = Expectations::new().pcr(0, [pcr(0xbb)]);
    Connector::new([anchor(&other.root)], wants)
        .connect("enclave.example", other.dial())
        .await
        .expect("the other image");
    enclave
        .connector()
        .connect("enclave.example", enclave.dial())
        .await
        .expect("the right one");
}

#[tokio::test]
async fn a_document_of_another_channel_is_refused_even_from_who_has_the_key() {
    let root = DevelopmentRoot::generate().expect("a root");
    let nsm = simulated(&root, IMAGE, false);
    let error = Liar::new()
        .answers(&connector(&root), move |asked| async move {
            let claims = Claims {
                user_data: Some(user_data(&[7; 32])),
                ..asked.claims()
            };
            http(&nsm.document(claims, SystemTime::now()))
        })
        .await
        .expect_err("a document of another channel");
    assert_eq!(differences(&error), ["user-data"]);
}

#[tokio::test]
async fn a_replayed_document_has_an_old_nonce_and_another_channel() {
    let root = DevelopmentRoot::generate().expect("a root");
    let nsm = Arc::new(simulated(&root, IMAGE, false));
    let liar = Liar::new();
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (first, keep) = (Arc::clone(&nsm), Arc::clone(&kept));
    liar.answers(&connector(&root), move |asked| async move {
        let document = first.document(asked.claims(), SystemTime::now());
        *keep.lock().expect("one at a time") = document.clone();
        http(&document)
    })
    .await
    .expect("the first time it is true");
    let old = kept.lock().expect("one at a time").clone();
    let error = liar
        .answers(&connector(&root), move |_| async move { http(&old) })
        .await
        .expect_err("a replay");
    assert_eq!(differences(&error), ["nonce", "user-data"]);
}

#[tokio::test]
async fn what_is_stripped_or_changed_is_missed() {
    type Change = fn(Claims, &Asked) -> Claims;
    let root = DevelopmentRoot::generate().expect("a root");
    let nsm = Arc::new(simulated(&root, IMAGE, false));
    let changes: [(Change, &[&str]); 7] = [
        (
            |claims, _| Claims {
                nonce: None,
                ..claims
            },
            &["nonce"],
        ),
        (
            |claims, _| Claims {
                user_data: None,
                ..claims
            },
            &["user-data"],
        ),
        (
            |claims, _| Claims {
                public_key: None,
                ..claims
            },
            &["public-key"],
        ),
        (
            |_, _| Claims::default(),
            &["nonce", "public-key", "user-data"],
        ),
        (
            |claims, asked| Claims {
                nonce: Some(asked.nonce[..31].to_vec()),
                ..claims
            },
            &["nonce"],
        ),
        (
            // The exporter's value itself, without its label.
            |claims, asked| Claims {
                user_data: Some(asked.exporter.to_vec()),
                ..claims
            },
            &["user-data"],
        ),
        (
            |claims, _| Claims {
                public_key: Some(papers(&rcgen::PKCS_ECDSA_P256_SHA256).public_key),
                ..claims
            },
            &["public-key"],
        ),
    ];
    for (change, missed) in changes {
        let nsm = Arc::clone(&nsm);
        let error = Liar::new()
            .answers(&connector(&root), move |asked| async move {
                http(&nsm.document(change(asked.claims(), &asked), SystemTime::now()))
            })
            .await
            .expect_err("something is missing");
        assert_eq!(differences(&error), missed);
    }
}

#[tokio::test]
async fn debug_enclaves_and_documents_of_another_time_are_refused() {
    let root = DevelopmentRoot::generate().expect("a root");
    let debug = simulated(&root, IMAGE, true);
    let any = Connector::new([anchor(&root)], Expectations::new().any_image());
    let error = Liar::new()
        .answers(&any, move |asked| async move {
            http(&debug.document(asked.claims(), SystemTime::now()))
        })
        .await
        .expect_err("debug mode");
    assert_eq!(differences(&error), ["debug"]);

    for (minutes, name) in [(-10_i64, "too-old"), (10, "from-the-future")] {
        let nsm = simulated(&root, IMAGE, false);
        let error = Liar::new()
            .answers(&connector(&root), move |asked| async move {
                let by = Duration::from_mins(minutes.unsigned_abs());
                let now = SystemTime::now();
                let when = if minutes < 0 { now - by } else { now + by };
                http(&nsm.document(asked.claims(), when))
            })
            .await
            .expect_err("another time");
        let ConnectError::Untrue(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.name(), name);
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_anywhere_makes_no_channel() {
    let root = DevelopmentRoot::generate().expect("a root");
    let nsm = Arc::new(simulated(&root, IMAGE, false));
    let length = http(&nsm.document(
        Claims {
            nonce: Some(vec![0; 32]),
            user_data: Some(user_data(&[0; 32])),
            public_key: Some(Liar::new().papers.public_key),
        },
        SystemTime::now(),
    ))
    .len();
    for end in [0, 1, 16, 17, 60, 90, 100, length / 2, length - 1] {
        let nsm = Arc::clone(&nsm);
        let outcome = Liar::new()
            .answers(&connector(&root), move |asked| async move {
                let mut bytes = http(&nsm.document(asked.claims(), SystemTime::now()));
                bytes.truncate(end);
                bytes
            })
            .await;
        assert!(
            matches!(outcome, Err(ConnectError::HungUp)),
            "{end}: {outcome:?}"
        );
    }
    // A document that is shorter than it says, in an answer that is whole.
    for gone in [1, 96, 2000] {
        let nsm = Arc::clone(&nsm);
        let outcome = Liar::new()
            .answers(&connector(&root), move |asked| async move {
                let document = nsm.document(asked.claims(), SystemTime::now());
                http(&document[..document.len() - gone])
            })
            .await;
        assert!(matches!(outcome, Err(ConnectError::Form(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn bytes_that_change_on_the_way_break_the_channel() {
    let enclave = Enclave::new();
    // The bytes from the enclave that are flipped: its first flight, its certificate, the document.
    for place in [60, 300, 900, 2000, 4000] {
        let outcome = enclave
            .connector()
            .connect("enclave.example", enclave.dial_through_a_flip(place))
            .await;
        assert!(
            matches!(outcome, Err(ConnectError::Tls(_) | ConnectError::Io(_))),
            "{place}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn older_tls_and_other_keys_are_not_spoken_to() {
    static OLDER: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    let enclave = Enclave::new();
    let older = Liar {
        versions: OLDER,
        ..Liar::new()
    };
    let error = older
        .answers(&enclave.connector(), |_| async { Vec::new() })
        .await
        .expect_err("TLS 1.2");
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    let other = Liar {
        papers: papers(&rcgen::PKCS_ED25519),
        ..Liar::new()
    };
    let error = other
        .answers(&enclave.connector(), |_| async { Vec::new() })
        .await
        .expect_err("a key that is neither P-256 nor P-384");
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    // The other curve is as good.
    let nsm = simulated(&enclave.root, IMAGE, false);
    let larger = Liar {
        papers: papers(&rcgen::PKCS_ECDSA_P384_SHA384),
        ..Liar::new()
    };
    larger
        .answers(&enclave.connector(), move |asked| async move {
            http(&nsm.document(asked.claims(), SystemTime::now()))
        })
        .await
        .expect("P-384");
}

#[tokio::test]
async fn a_server_of_another_kind_is_told_from_an_enclave() {
    let enclave = Enclave::new();
    for (answer, said) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        (
            "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            "try again",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: https://elsewhere\r\ncontent-length: 0\r\n\r\n",
            "302",
        ),
        ("220 mail.example ESMTP\r\n\r\n", "no HTTP/1.1"),
    ] {
        let error = Liar::new()
            .answers(&enclave.connector(), move |_| async move {
                answer.as_bytes().to_vec()
            })
            .await
            .expect_err("no enclave");
        assert!(error.to_string().contains(said), "{error}");
        assert!(!error.is_refusal());
    }
}

#[tokio::test]
async fn who_expects_nothing_gets_nothing() {
    let enclave = Enclave::new();
    let error = Connector::new([anchor(&enclave.root)], Expectations::new())
        .connect("enclave.example", enclave.dial())
        .await
        .expect_err("nothing is expected");
    assert_eq!(differences(&error), ["no-image-expected"]);
    // Nor does who trusts AWS's root alone get a simulator.
    let error = Connector::new(
        [anchorhold_client::Anchor::aws_nitro()],
        Expectations::new().pcr(0, [pcr(IMAGE)]),
    )
    .connect("enclave.example", enclave.dial())
    .await
    .expect_err("a simulator");
    assert!(matches!(error, ConnectError::Untrue(_)), "{error}");
}
