//! Calls from end to end, with real jobs, over streams in memory.

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anchorhold_enclave::call::{self, CallError};
use anchorhold_envelope::Suite;
use bytes::Bytes;
use http::StatusCode;
use support::{Bench, Mood, Shape, bench, body, collect, context, in_pieces};

const CAT: &[&str] = &["/bin/cat"];

fn shell(script: &str) -> Vec<&str> {
    vec!["/bin/sh", "-c", script]
}

fn lines(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| {
            format!("{{\"id\":{number},\"text\":\"{}\"}}\n", "x".repeat(200)).into_bytes()
        })
        .collect()
}

/// The whole answer if the call succeeds, else the error, and whatever was sent before it.
async fn call_pieces(
    bench: &Bench,
    pieces: Vec<Result<Bytes, io::Error>>,
) -> (Vec<u8>, Result<(), String>) {
    let before = async { Ok(()) };
    match call::begin(Arc::clone(&bench.terms), body(pieces), before, (), |_| {}).await {
        Ok(reply) => {
            let (bytes, end) = collect(reply).await;
            (bytes, end.map_err(|error| error.to_string()))
        }
        Err(error) => (Vec::new(), Err(error.to_string())),
    }
}

async fn call(bench: &Bench, message: &[u8]) -> (Vec<u8>, Result<(), String>) {
    call_pieces(bench, in_pieces(message, 10_000)).await
}

async fn refused(bench: &Bench, message: &[u8]) -> CallError {
    let before = async { Ok(()) };
    let body = body(in_pieces(message, 1000));
    match call::begin(Arc::clone(&bench.terms), body, before, (), |_| {}).await {
        Ok(_) => panic!("the call must fail before it answers anything"),
        Err(error) => error,
    }
}

/// A result that came in part must not open as a whole.
fn assert_incomplete(bench: &Bench, bytes: &[u8]) {
    assert!(
        bytes.is_empty() || bench.owner.open(bytes).is_err(),
        "a failed call's output opened as a whole message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_gives_one_line_for_each_in_order() {
    let bench = bench(&shell("sed 's/^/out:/'"), Shape::default());
    let input = b"{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n";
    let message = bench.owner.seal(input, context());
    let (result, end) = call(&bench, &message).await;
    end.expect("the call succeeds");
    let (header, plaintext) = bench.owner.open(&result).expect("the result is whole");
    assert_eq!(
        plaintext,
        b"out:{\"id\":1}\nout:{\"id\":2}\nout:{\"id\":3}\n"
    );
    assert_eq!(header.suite(), Suite::CommitKey);
    let own = |key: &str| header.context().get(key).map(String::as_str);
    assert_eq!(own("purpose"), Some("test"));
    assert_eq!(own("anchorhold:kind"), Some("result"));
    assert_eq!(
        own("anchorhold:request"),
        Some(hex::encode(&message[3..35]).as_str()),
        "the result names the message that it answers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_inputs_stream_through() {
    let bench = bench(CAT, Shape::default());
    let input = lines(60_000);
    let message = bench.owner.seal(&input, context());
    let (result, end) = call_pieces(&bench, in_pieces(&message, 100_000)).await;
    end.expect("the call succeeds");
    let (_, plaintext) = bench.owner.open(&result).expect("the result is whole");
    assert!(plaintext == input);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_begins_before_the_input_is_complete() {
    let bench = bench(CAT, Shape::default());
    let input = lines(20_000);
    let message = bench.owner.seal(&input, context());
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, io::Error>>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece.map(hyper::body::Frame::data), receiver))
    });
    let body = http_body_util::StreamBody::new(Box::pin(stream));
    let (first, last) = message.split_at(message.len() - 1000);
    let first = Bytes::copy_from_slice(first);
    let feeder = sender.clone();
    tokio::spawn(async move { feeder.send(Ok(first)).await });
    let before = async { Ok(()) };
    let reply = call::begin(Arc::clone(&bench.terms), body, before, (), |_| {})
        .await
        .expect("an answer while the input is incomplete");
    let last = Bytes::copy_from_slice(last);
    tokio::spawn(async move { sender.send(Ok(last)).await });
    let (result, end) = collect(reply).await;
    end.expect("the call succeeds");
    assert!(bench.owner.open(&result).expect("whole").1 == input);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_input_is_a_call_without_lines() {
    let bench = bench(CAT, Shape::default());
    let (result, end) = call(&bench, &bench.owner.seal(b"", context())).await;
    end.expect("the call succeeds");
    assert_eq!(bench.owner.open(&result).expect("whole").1, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_line_without_newline_is_given_one() {
    let bench = bench(
        &shell("while read -r line; do echo \"<$line>\"; done"),
        Shape::default(),
    );
    let (result, end) = call(&bench, &bench.owner.seal(b"a\nb", context())).await;
    end.expect("the call succeeds");
    assert_eq!(bench.owner.open(&result).expect("whole").1, b"<a>\n<b>\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_messages_are_accepted_and_their_signer_is_not_in_the_result() {
    let bench = bench(CAT, Shape::default());
    let input = lines(100);
    let message = bench
        .owner
        .seal_as(Suite::CommitKeySigned, &input, context(), |_| {});
    let (result, end) = call(&bench, &message).await;
    end.expect("the call succeeds");
    let (header, plaintext) = bench.owner.open(&result).expect("whole");
    assert_eq!(plaintext, input);
    assert!(!header.context().contains_key("aws-crypto-public-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_signature_completes_nothing() {
    let bench = bench(CAT, Shape::default());
    let mut message = bench
        .owner
        .seal_as(Suite::CommitKeySigned, &lines(2000), context(), |_| {});
    let last = message.len() - 1;
    message[last] ^= 1;
    let (result, end) = call(&bench, &message).await;
    end.expect_err("the signature is not good");
    assert_incomplete(&bench, &result);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_signature_completes_nothing() {
    let bench = bench(CAT, Shape::default());
    let message = bench
        .owner
        .seal_as(Suite::CommitKeySigned, &lines(10), context(), |_| {});
    let error = refused(&bench, &message[..message.len() - 60]).await;
    assert!(matches!(error, CallError::Input(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_completes_nothing() {
    let bench = bench(CAT, Shape::default());
    let message = bench.owner.seal(&lines(100), context());
    for at in [
        0,
        1,
        2,
        40,
        80,
        200,
        300,
        message.len() / 2,
        message.len() - 1,
    ] {
        let mut changed = message.clone();
        changed[at] ^= 0x10;
        let (result, end) = call(&bench, &changed).await;
        assert!(end.is_err(), "byte {at}");
        assert_incomplete(&bench, &result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_input_completes_nothing() {
    let bench = bench(CAT, Shape::default());
    let message = bench.owner.seal(&lines(5000), context());
    for length in [0, 1, 100, 5000, message.len() / 2, message.len() - 1] {
        let (result, end) = call(&bench, &message[..length]).await;
        assert!(end.is_err(), "{length} bytes");
        assert_incomplete(&bench, &result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_the_message_complete_nothing() {
    let bench = bench(CAT, Shape::default());
    let mut message = bench.owner.seal(&lines(10), context());
    message.push(0);
    let error = refused(&bench, &message).await;
    assert!(matches!(error, CallError::Input(_)), "{error}");
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_off_completes_nothing() {
    let bench = bench(CAT, Shape::default());
    let message = bench.owner.seal(&lines(5000), context());
    for keep in [50, message.len()] {
        let mut pieces = in_pieces(&message[..keep], 10_000);
        pieces.push(Err(io::ErrorKind::ConnectionReset.into()));
        let (result, end) = call_pieces(&bench, pieces).await;
        assert!(end.is_err());
        assert_incomplete(&bench, &result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_secrets_are_not_accepted_as_inputs() {
    let bench = bench(CAT, Shape::default());
    let context = [("anchorhold:kind".to_owned(), "result".to_owned())].into();
    let error = refused(&bench, &bench.owner.seal(b"a\n", context)).await;
    assert!(
        matches!(error, CallError::ReservedContext { .. }),
        "{error}"
    );
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ignores_recipient_is_not_trusted() {
    for mood in [Mood::AnswersPlaintext, Mood::AnswersBoth] {
        let shape = Shape {
            mood,
            ..Shape::default()
        };
        let bench = bench(CAT, shape);
        let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
        assert!(error.to_string().contains("with a plaintext"), "{error}");
        assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_envelope_there_is_no_call() {
    for mood in [
        Mood::AnswersNothing,
        Mood::WrongRecipient,
        Mood::ShortKeys,
        Mood::Denies,
    ] {
        let shape = Shape {
            mood,
            ..Shape::default()
        };
        let bench = bench(CAT, shape);
        let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
        assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{mood:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_key_of_several_is_enough() {
    let bench = bench(CAT, Shape::default());
    let message = bench
        .owner
        .seal_as(Suite::CommitKey, b"a\n", context(), |keys| {
            let mut foreign = keys[0].clone();
            foreign.provider_id = "raw".to_owned();
            let mut unknown = keys[0].clone();
            unknown.ciphertext = vec![0; 32];
            unknown.key_info = support::KEY.to_owned();
            keys.insert(0, unknown);
            keys.insert(0, foreign);
        });
    // The result is opened by its own data key; only the input has several.
    let (result, end) = call(&bench, &message).await;
    end.expect("the second key of the provider is good");
    assert_eq!(bench.owner.open(&result).expect("whole").1, b"a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_kms_key_is_refused() {
    let bench = bench(CAT, Shape::default());
    let message = bench
        .owner
        .seal_as(Suite::CommitKey, b"a\n", context(), |keys| {
            keys[0].provider_id = "raw".to_owned();
        });
    let error = refused(&bench, &message).await;
    assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_fails_the_call() {
    let bench = bench(&shell("cat; exit 3"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\nb\n", context())).await;
    assert!(error.to_string().contains("exit code 3"), "{error}");
    assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_after_output_began_leaves_no_whole_result() {
    let bench = bench(&shell("cat; exit 3"), Shape::default());
    let input = lines(5000);
    let (result, end) = call(&bench, &bench.owner.seal(&input, context())).await;
    let error = end.expect_err("the job failed");
    assert!(error.contains("exit code 3"), "{error}");
    assert!(!result.is_empty(), "the answer had begun");
    assert_incomplete(&bench, &result);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_fails_the_call() {
    let bench = bench(&shell("cat; kill -9 $$"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
    assert!(error.to_string().contains("SIGKILL"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_dies_of_a_real_time_signal_fails_the_call() {
    let bench = bench(&shell("cat; kill -40 $$"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
    assert!(error.to_string().contains("signal 40"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_line_fails_the_call() {
    let bench = bench(&shell("sed 1d"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\nb\nc\n", context())).await;
    assert!(
        matches!(
            error,
            CallError::MissingLines {
                given: 3,
                written: 2
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extra_line_fails_the_call() {
    let bench = bench(&shell("cat; echo more"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\nb\n", context())).await;
    assert!(matches!(error, CallError::ExtraLine { line: 3 }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_lines_ends_at_the_first_extra_one() {
    let bench = bench(&shell("yes"), Shape::default());
    let started = Instant::now();
    let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
    assert!(matches!(error, CallError::ExtraLine { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_line_without_newline_fails_the_call() {
    let bench = bench(&shell("cat; printf more"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
    assert!(
        matches!(error, CallError::PartialLine { line: 2 }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_beyond_the_limit_fail_the_call_in_both_directions() {
    let shape = Shape {
        max_line_bytes: 100,
        ..Shape::default()
    };
    let long_in = bench(CAT, shape.clone());
    let message = long_in
        .owner
        .seal(format!("a\n{}\n", "x".repeat(101)).as_bytes(), context());
    let error = refused(&long_in, &message).await;
    assert!(matches!(error, CallError::InputLine(_)), "{error}");
    let long_out = bench(&shell("sed 's/a/aaaaaaaaaaaaaaaaaaaa/g'"), shape);
    let message = long_out.owner.seal(b"b\naaaaaaaaaa\n", context());
    let error = refused(&long_out, &message).await;
    assert!(matches!(error, CallError::OutputLine(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_stops_reading_fails_the_call() {
    let bench = bench(&shell("exec 0<&-; sleep 0.2"), Shape::default());
    let error = refused(&bench, &bench.owner.seal(&lines(20_000), context())).await;
    assert!(matches!(error, CallError::StoppedReading), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_never_ends_is_ended_with_all_that_it_started() {
    let shape = Shape {
        timeout: Duration::from_secs(1),
        ..Shape::default()
    };
    let bench = bench(
        &shell("sleep 4711.25 & (sleep 4711.25 &) ; cat > /dev/null; sleep 4711.25"),
        shape,
    );
    let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
    assert!(
        matches!(error, CallError::Timeout { seconds: 1 }),
        "{error}"
    );
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_gone("4711.25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_leaves_running_ends_with_it() {
    // The stragglers hold standard output open: without their end the call would wait for the timeout.
    let bench = bench(
        &shell("(setsid sleep 4712.25 &); (sleep 4712.25 &); cat"),
        Shape::default(),
    );
    let started = Instant::now();
    let (result, end) = call(&bench, &bench.owner.seal(b"a\n", context())).await;
    end.expect("the job itself did well");
    assert_eq!(bench.owner.open(&result).expect("whole").1, b"a\n");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_gone("4712.25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_ends_the_job() {
    let bench = bench(&shell("cat; sleep 4713.25"), Shape::default());
    let message = bench.owner.seal(&lines(5000), context());
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let permit = Arc::clone(&permits).acquire_owned().await.expect("open");
    let before = async { Ok(()) };
    let body = body(in_pieces(&message, 10_000));
    let reply = call::begin(Arc::clone(&bench.terms), body, before, permit, |_| {})
        .await
        .expect("the answer begins");
    assert_eq!(permits.available_permits(), 0);
    drop(reply);
    assert_gone("4713.25").await;
    let free = tokio::time::timeout(Duration::from_secs(10), permits.acquire()).await;
    assert!(free.is_ok(), "the call's place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_named() {
    let bench = bench(&["/no/such/program"], Shape::default());
    let error = refused(&bench, &bench.owner.seal(b"a\n", context())).await;
    let text = error.to_string();
    assert!(
        text.contains("/no/such/program") && text.contains("job.command"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_started_when_what_comes_before_fails() {
    let bench = bench(CAT, Shape::default());
    let message = bench.owner.seal(b"a\n", context());
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failures);
    let before = async { Err(CallError::HungUp) };
    let outcome = call::begin(
        Arc::clone(&bench.terms),
        body(in_pieces(&message, 10)),
        before,
        (),
        move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        },
    )
    .await;
    assert!(outcome.is_err());
    assert_eq!(failures.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_does_not_see_what_another_left() {
    let bench = bench(
        &shell(
            "while read -r line; do ls -A $TMPDIR | wc -l; done; mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/left",
        ),
        Shape::default(),
    );
    for _ in 0..2 {
        let (result, end) = call(&bench, &bench.owner.seal(b"a\n", context())).await;
        end.expect("the call succeeds");
        let (_, plaintext) = bench.owner.open(&result).expect("whole");
        assert_eq!(String::from_utf8_lossy(&plaintext).trim(), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_keep_to_themselves() {
    let bench = Arc::new(bench(CAT, Shape::default()));
    let calls = (0..16).map(|number| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            let input = format!("{number}\n").repeat(3000);
            let (result, end) = call(&bench, &bench.owner.seal(input.as_bytes(), context())).await;
            end.expect("the call succeeds");
            assert!(bench.owner.open(&result).expect("whole").1 == input.as_bytes());
        })
    });
    for outcome in futures_util::future::join_all(calls).await {
        outcome.expect("no call panics");
    }
}

/// Waits until no process has `word` among its arguments.
async fn assert_gone(word: &str) {
    let running = || {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return false;
        };
        processes.flatten().any(|process| {
            // Zombies have an empty command line.
            std::fs::read(process.path().join("cmdline")).is_ok_and(|line| {
                line.split(|&byte| byte == 0)
                    .any(|argument| argument == word.as_bytes())
            })
        })
    };
    let started = Instant::now();
    while running() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "sleep {word} is still running"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A bench whose manifest says these things of fields.
fn with_fields(command: &[&str], open: &[&str], seal: &[&str], row: Option<&str>) -> Bench {
    let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let manifest = anchorhold_manifest::LineFields {
        open: named(open),
        seal: named(seal),
        row: row.map(str::to_owned),
        context: [("purpose".to_owned(), "cards".to_owned())].into(),
    };
    let shape = Shape {
        fields: Some(anchorhold_enclave::fields::FieldTerms::new(&manifest).expect("names")),
        ..Shape::default()
    };
    bench(command, shape)
}

/// The lines of a result, in JSON.
fn json(bench: &Bench, result: &[u8]) -> Vec<serde_json::Value> {
    let (_, plaintext) = bench.owner.open(result).expect("whole");
    let text = String::from_utf8(plaintext).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_fields_are_opened_for_the_job_and_sealed_in_its_answer() {
    // The job sees the number, and answers with a line that has it in another field.
    let bench = with_fields(
        &shell("sed 's/\"pan\":\"4111\"/\"seen\":true,\"token\":[\"t-4111\"]/'"),
        &["pan"],
        &["token[]"],
        Some("id"),
    );
    let mut sealer = bench.owner.field_sealer(&["pan"], Some("id"), "cards");
    let mut lines = Vec::new();
    for id in 0..500 {
        let line = format!("{{\"id\":{id},\"pan\":\"4111\"}}");
        sealer.line(&line, &mut lines).expect("sealed");
        lines.push(b'\n');
    }
    lines.pop();
    assert!(!String::from_utf8_lossy(&lines).contains("4111"));
    let message = bench.owner.seal(&lines, context());
    let (result, end) = call(&bench, &message).await;
    end.expect("the call succeeds");
    let mut opener = support::field_opener(&["token[]"], Some("id"), "cards");
    for (id, line) in json(&bench, &result).iter().enumerate() {
        assert_eq!(line["seen"], true, "{line}");
        assert!(!line.to_string().contains("t-4111"), "{line}");
        let opened = bench.owner.open_line(&mut opener, &line.to_string());
        let opened: serde_json::Value =
            serde_json::from_str(&opened.expect("it opens")).expect("JSON");
        assert_eq!(
            opened,
            serde_json::json!({"id": id, "seen": true, "token": ["t-4111"]})
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_field_is_not_what_was_sealed_fails_the_call() {
    let bench = with_fields(CAT, &["pan"], &[], None);
    let sealed = |names: &[&str], line: &str, purpose: &str| {
        let mut out = Vec::new();
        let mut sealer = bench.owner.field_sealer(names, None, purpose);
        sealer.line(line, &mut out).expect("sealed");
        String::from_utf8(out).expect("text")
    };
    let good = sealed(&["pan"], "{\"pan\":\"4111\"}", "cards");
    let (result, end) = call(&bench, &bench.owner.seal(good.as_bytes(), context())).await;
    end.expect("the honest call succeeds");
    assert_eq!(json(&bench, &result)[0]["pan"], "4111");
    let of_another_field = sealed(&["x"], "{\"x\":1}", "cards").replace("\"x\"", "\"pan\"");
    let of_another_context = sealed(&["pan"], "{\"pan\":1}", "other");
    let cut = format!("{}\"}}", &good[..good.len() - 6]);
    let plain = "{\"pan\":\"4111\"}".to_owned();
    for (line, word) in [
        (of_another_field, "sealed as another field"),
        (
            of_another_context,
            "was not sealed with purpose = \"cards\"",
        ),
        (cut, "pan"),
        (plain, "pan is not sealed"),
        ("{\"pan\":".to_owned(), "not JSON"),
        ("\u{fffd}".to_owned(), "not JSON"),
    ] {
        let text = format!("{good}\n{line}\n");
        let message = bench.owner.seal(text.as_bytes(), context());
        let error = refused(&bench, &message).await;
        assert_eq!(error.kind(), "input_field", "{error}");
        let said = error.to_string();
        assert!(
            said.starts_with("line 2 of the input: ") && said.contains(word),
            "{said}"
        );
        assert!(!said.contains("4111"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_fields_cannot_be_found_fails_the_call() {
    for (script, word) in [
        (
            "sed 's/.*/not json/'",
            "line 1 of the job's output: it is not JSON",
        ),
        (
            "sed 's/.*/{\"card\":\"4111\"}/'",
            "card is neither an object",
        ),
        ("sed 's/.*/[1]/'", "it is no JSON object"),
    ] {
        let bench = with_fields(&shell(script), &[], &["card.pan"], None);
        let message = bench.owner.seal(b"{\"a\":1}\n", context());
        let error = refused(&bench, &message).await;
        assert_eq!(error.kind(), "output_field", "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.to_string().contains("4111"), "{error}");
    }
    // Blank lines have no fields.
    let bench = with_fields(CAT, &["pan"], &["pan"], None);
    let (result, end) = call(&bench, &bench.owner.seal(b"\n{\"a\":1}\n", context())).await;
    end.expect("the call succeeds");
    assert_eq!(
        bench.owner.open(&result).expect("whole").1,
        b"\n{\"a\":1}\n"
    );
}

#[test]
fn the_manifest_takes_the_same_names_of_fields_as_the_runtime() {
    use proptest::prelude::*;
    proptest!(|(name in "[ab.\\[\\]\\\\]{0,8}|[a-c\u{e9} ]{1,5}(\\.[a-c]{1,3}){0,3}(\\[\\])?")| {
        let text = format!(
            "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"https://k\"\nkey = \"k\"\nregion = \"r\"\n[fields]\nopen = [{}]\n",
            serde_json::to_string(&name).expect("JSON")
        );
        let taken = anchorhold_envelope::fields::Fields::new([&name]).is_ok();
        prop_assert_eq!(anchorhold_manifest::Manifest::parse(&text).is_ok(), taken, "{}", name);
    });
}
