//! Single fields, sealed by their owner on the command line: what a database can hold, and what a parent can do with it.

use std::path::Path;

use serde_json::Value;

use crate::common::{House, Who};

const ROWS: &[u8] =
    b"{\"id\":1,\"pan\":\"4111111111111111\",\"card\":{\"cvc\":123},\"note\":\"plain\"}\n\
{\"id\":2,\"pan\":\"5500005555555559\",\"card\":[{\"cvc\":null}]}\n\n{\"id\":3}\n";
const NAMES: &str = "pan,card.cvc";

fn house() -> (House, crate::common::KeyService) {
    let mut house = House::new();
    let service = house.key_service(&[]);
    house.must(Who::Owner, ["kms", "create-key", "--alias", "alias/rows"]);
    (house, service)
}

fn sealed(house: &House, more: &[&str]) -> String {
    let arguments = ["seal", "--key", "alias/rows", "--fields", NAMES];
    let arguments = arguments.iter().chain(more);
    String::from_utf8(house.must_with(Who::Owner, arguments, ROWS)).expect("text")
}

fn open(house: &House, text: &str, more: &[&str]) -> Result<Vec<u8>, String> {
    let input = house.write("rows.sealed", text);
    let output = house.path("rows.opened");
    let _ = std::fs::remove_file(&output);
    let mut arguments = vec!["open", "--fields", NAMES, "--input"];
    arguments.push(input.to_str().expect("text"));
    arguments.extend(["--output", output.to_str().expect("text")]);
    arguments.extend(more);
    let outcome = house.run(Who::Owner, arguments);
    if outcome.status.success() {
        Ok(std::fs::read(&output).expect("it was written"))
    } else {
        assert!(
            !Path::new(&output).exists(),
            "what does not open leaves no file"
        );
        Err(String::from_utf8_lossy(&outcome.stderr).into_owned())
    }
}

fn rows(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn fields_are_sealed_and_opened_by_their_owner_and_stay_what_they_were() {
    let (house, _service) = house();
    let seen = house.audit().len();
    let text = sealed(&house, &["--context", "purpose=rows"]);
    let audit = house.audit();
    assert_eq!(audit.len(), seen + 1, "one data key for all of them");
    assert!(
        !text.contains("4111") && !text.contains("123}") && text.contains("\"note\":\"plain\"")
    );
    assert!(text.contains("\"id\":2,") && text.ends_with("\n\n{\"id\":3}\n"));
    let opened = open(&house, &text, &["--context", "purpose=rows"]).expect("they open");
    assert_eq!(opened, ROWS);
    assert_eq!(house.audit().len(), seen + 2, "and one call opens them");
    // The context is the one that was sealed with.
    let said = open(&house, &text, &["--context", "purpose=other"]).expect_err("another context");
    assert!(
        said.contains("line 1: pan was not sealed with purpose = \"other\""),
        "{said}"
    );
    // And nobody opens what he may not decrypt.
    let input = house.write("rows.sealed", &text);
    let input = input.to_str().expect("text");
    house.must_fail(Who::Host, ["open", "--fields", NAMES, "--input", input]);
}

#[test]
fn what_a_host_does_to_sealed_fields_is_seen() {
    let (house, _service) = house();
    let text = sealed(&house, &["--row", "id"]);
    assert_eq!(
        open(&house, &text, &["--row", "id"]).expect("they open"),
        ROWS
    );
    let all = rows(&text);
    let put = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut all = all.clone();
        change(&mut all);
        let lines: Vec<_> = all.iter().map(Value::to_string).collect();
        open(&house, &lines.join("\n"), &["--row", "id"]).expect_err("it was changed")
    };
    let value = |row: usize| all[row]["pan"].clone();
    for (said, word) in [
        (
            put(&|rows| rows[0]["pan"] = value(1)),
            "line 1: pan was changed, or was sealed as another field or in another row",
        ),
        (
            put(&|rows| rows[0]["card"]["cvc"] = value(0)),
            "line 1: card.cvc was changed",
        ),
        (
            put(&|rows| rows[1]["pan"] = "5500005555555559".into()),
            "line 2: pan is not sealed",
        ),
        (
            put(&|rows| {
                let text = rows[0]["pan"].as_str().expect("text");
                rows[0]["pan"] = text[..text.len() - 4].into();
            }),
            "line 1: pan was changed",
        ),
        (put(&|rows| rows[0]["id"] = 7.into()), "another row"),
    ] {
        assert!(said.contains(word), "{said}");
        assert!(!said.contains("4111"), "{said}");
    }
    let said = open(&house, &text, &[]).expect_err("its row is not named");
    assert!(said.contains("bound to its row"), "{said}");
}

#[test]
fn a_field_that_cannot_be_found_for_sure_is_not_left_unsealed() {
    let (house, _service) = house();
    for (line, word) in [
        (
            "{\"pan\":\"1\"}\n{\"card\":\"4111 123\"}\n",
            "line 2: card is neither an object",
        ),
        ("not json\n", "line 1: it is not JSON"),
    ] {
        let input = house.write("rows.ndjson", line);
        let output = house.path("none.sealed");
        let said = house.must_fail(
            Who::Owner,
            [
                "seal",
                "--key",
                "alias/rows",
                "--fields",
                NAMES,
                "--input",
                input.to_str().expect("text"),
                "--output",
                output.to_str().expect("text"),
            ],
        );
        assert!(said.contains(word), "{said}");
        assert!(!output.exists());
    }
    let said = house.must_fail(
        Who::Owner,
        ["seal", "--key", "alias/rows", "--fields", "a,a.b"],
    );
    assert!(said.contains("lies within another field"), "{said}");
}

#[test]
fn an_enclave_opens_the_fields_of_its_input_and_seals_those_of_its_answer() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let more = "[resources]\nmemory_mib = 128\n[fields]\nopen = [\"pan\"]\nseal = [\"pan\"]\nrow = \"id\"\ncontext = { purpose = \"rows\" }\n";
    let manifest = house.manifest(&["/job"], "alias/odd", more);
    let image = house.image("tests/whole/odd-job", &manifest, "odd.eif");
    house.key("alias/odd", &house.policy(&image, "odd.json"));
    let enclave = house.enclave(&image, "odd", &[]);
    let seal = |rows: &[u8]| {
        let arguments = [
            "seal",
            "--key",
            "alias/odd",
            "--fields",
            "pan",
            "--row",
            "id",
            "--context",
            "purpose=rows",
        ];
        house.must_with(Who::Owner, arguments, rows)
    };
    // The job echoes what it reads.
    let rows = b"{\"id\":1,\"pan\":\"4111\"}\n{\"id\":2,\"pan\":[5,null]}\n";
    let sealed = house.seal("alias/odd", &[], &seal(rows), "input.sealed");
    let result = house.path("result.sealed");
    house.must_call(enclave.name, &sealed, &result);
    let answer = house.open(&result, &[]);
    let text = String::from_utf8(answer.clone()).expect("text");
    assert_eq!(text.matches("sealed.v1.").count(), 2, "{text}");
    assert_ne!(answer, seal(rows), "they are sealed anew");
    let arguments = [
        "open",
        "--fields",
        "pan",
        "--row",
        "id",
        "--context",
        "purpose=rows",
    ];
    assert_eq!(house.must_with(Who::Owner, arguments, &answer), rows);
    // A row that the host has put another row's value into fails the call.
    let moved = String::from_utf8(seal(rows))
        .expect("text")
        .replacen("\"id\":1", "\"id\":3", 1);
    let sealed = house.seal("alias/odd", &[], moved.as_bytes(), "input.sealed");
    let _ = std::fs::remove_file(&result);
    let said = house.must_not_call(enclave.name, &sealed, &result);
    assert!(
        said.contains("line 1 of the input: pan was changed"),
        "{said}"
    );
}
