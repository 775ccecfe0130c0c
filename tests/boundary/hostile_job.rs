//! The job attacks the runtime: it asks for what was not granted, and floods the socket on which it may ask, while others are
//! served.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::hostile_parent::HostileParent;
use crate::stage::{LINES, Stage, call};

fn lines(orders: &[Value]) -> Vec<u8> {
    let lines = orders.iter().map(|order| format!("{order}\n"));
    lines.collect::<String>().into_bytes()
}

/// What the job was answered, by its question.
fn answers(stage: &Stage, enclave: &HostileParent, questions: &[String]) -> Vec<String> {
    let orders: Vec<_> = questions
        .iter()
        .map(|question| json!({"do": "ask", "question": question}))
        .collect();
    let message = stage.sealed(&lines(&orders), &[]);
    let result = enclave.call(&message).expect("the call goes on");
    let opened = String::from_utf8(stage.opened(&result, &[])).expect("text");
    opened
        .lines()
        .map(|line| {
            let answer: Value = serde_json::from_str(line).expect("JSON");
            answer.as_str().expect("text").to_owned()
        })
        .collect()
}

#[test]
fn what_was_not_granted_is_refused_on_every_path_that_there_is() {
    let stage = Stage::with("\n[api]\n");
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let described: Value =
        serde_json::from_str(include_str!("../../enclave/openapi.json")).expect("JSON");
    let mut questions = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().expect("paths") {
        let path = path
            .replace("{name}", "tokenization-key")
            .replace("{index}", "16");
        for method in methods.as_object().expect("methods").keys() {
            questions.insert(format!("{} {path}", method.to_ascii_uppercase()));
        }
    }
    assert!(questions.len() > 9, "{questions:?}");
    let questions: Vec<_> = questions.into_iter().collect();
    for (question, answer) in questions.iter().zip(answers(&stage, &enclave, &questions)) {
        if question == "GET /v1/granted" {
            assert!(
                answer.starts_with("200 {\"grant\":[],\"secrets\":[]"),
                "{answer}"
            );
        } else {
            assert!(
                answer.starts_with("403 ") && answer.contains("not_granted"),
                "{question}: {answer}"
            );
        }
    }
}

#[test]
fn a_job_that_floods_the_runtime_holds_up_no_call() {
    let stage = Stage::with("\n[api]\ngrant = [\"seal\", \"open\"]\n");
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let honest = stage.sealed(LINES, &[]);
    assert_eq!(stage.honest_call(enclave.folder(), &honest), LINES);
    let flood = stage.sealed(&lines(&[json!({"do": "flood", "seconds": 3})]), &[]);
    let folder = enclave.folder().to_owned();
    let flooding = std::thread::spawn(move || call(&folder, &flood));
    let mut served = 0;
    while !flooding.is_finished() {
        assert_eq!(stage.honest_call(enclave.folder(), &honest), LINES);
        served += 1;
    }
    assert!(served > 0);
    flooding
        .join()
        .expect("no panic")
        .expect("its own call ends as well");
    // And the socket is as it was, for the next process of the job.
    let granted = answers(&stage, &enclave, &["GET /v1/granted".to_owned()]);
    assert!(
        granted[0].starts_with("200 {\"grant\":[\"open\",\"seal\"]"),
        "{granted:?}"
    );
    assert_eq!(stage.honest_call(enclave.folder(), &honest), LINES);
}
