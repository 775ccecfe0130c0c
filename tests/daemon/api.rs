//! The API is what its description says.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anchorhold_parent::daemon::api::{OPENAPI, ROUTES};
use serde_json::{Value, json};

use crate::stage::{Stage, eventually, free_port, image, ingress};

/// What of a value does not fit a schema of the document.
fn misfits(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.trim_start_matches('#');
        let found = document
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{name} is not there"));
        return misfits(document, found, value, place);
    }
    if let Some(any) = schema["oneOf"].as_array() {
        let fits = any
            .iter()
            .filter(|one| misfits(document, one, value, place).is_empty());
        return if fits.count() == 1 {
            Vec::new()
        } else {
            vec![format!("{place}: none or several of oneOf")]
        };
    }
    let is = |kind: &str| match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("the schema has the type {other}"),
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        other => panic!("{place}: no type: {other}"),
    };
    if !kinds.iter().any(|kind| is(kind)) {
        return vec![format!("{place}: {value} is not {kinds:?}")];
    }
    let mut found = Vec::new();
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{place}: {value} is not among {allowed:?}"));
    }
    if let Some(list) = value.as_array() {
        for one in list {
            found.extend(misfits(
                document,
                &schema["items"],
                one,
                &format!("{place}[]"),
            ));
        }
    }
    if let Some(map) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !map.contains_key(name.as_str().unwrap_or_default()) {
                found.push(format!("{place}.{name} is missing"));
            }
        }
        for (name, one) in map {
            let place = format!("{place}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => {
                    found.push(format!("{place} is not described"));
                }
                (Value::Null, further @ Value::Object(_)) => {
                    found.extend(misfits(document, further, one, &place));
                }
                (Value::Null, _) => {}
                (described, _) => found.extend(misfits(document, described, one, &place)),
            }
        }
    }
    found
}

#[test]
fn paths_and_answers_are_as_the_description_says() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            methods
                .keys()
                .map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    let routes: BTreeSet<(String, String)> = ROUTES
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(described, routes);

    let stage = Stage::new();
    stage.settings("[metrics]\nlisten = \"127.0.0.1:9\"\n");
    stage.settings("");
    stage.declare("cards", "1", &ingress(free_port()));
    let _daemon = stage.daemon();
    stage.serves("cards");
    eventually("measured for people", || {
        stage.view("cards")["instances"][0]["measurements"]
            .is_object()
            .then_some(())
    });
    let (file, _) = image("1");
    let run =
        json!({ "image": file, "backend": "sandbox", "name": "more", "egress": ["a.example:1"] });
    let mut seen = BTreeSet::new();
    for (method, path, body, wanted) in [
        ("get", "/v1/openapi.json", "", 200),
        ("get", "/v1/health", "", 200),
        ("get", "/v1/ready", "", 200),
        ("post", "/v1/enclaves", run.to_string().as_str(), 201),
        (
            "post",
            "/v1/enclaves",
            "{\"image\":\"x\",\"backend\":\"sandbox\"}",
            400,
        ),
        (
            "post",
            "/v1/enclaves",
            "{\"image\":\"/nowhere\",\"backend\":\"sandbox\"}",
            422,
        ),
        ("post", "/v1/enclaves", "{\"picture\":1}", 400),
        ("get", "/v1/enclaves", "", 200),
        ("get", "/v1/enclaves/{name}", "", 200),
        ("get", "/v1/enclaves/{name}/document", "", 200),
        ("post", "/v1/reload", "{}", 200),
        (
            "post",
            "/v1/enclaves/{name}/stop",
            "{\"drain_seconds\":1}",
            200,
        ),
        ("post", "/v1/enclaves/{name}/stop", "{\"drain\":1}", 400),
        ("get", "/v1/enclaves/{name}/document", "", 409),
        ("post", "/v1/enclaves/{name}/start", "", 202),
        ("get", "/v1/metrics", "", 200),
        ("get", "/v1/enclaves/{name}/logs", "", 200),
    ] {
        let (status, text) = stage.raw(
            &method.to_uppercase(),
            &path.replace("{name}", "cards"),
            body,
        );
        assert_eq!(status, wanted, "{method} {path} {body}: {text}");
        seen.insert((method.to_owned(), path.to_owned()));
        let responses = &document["paths"][path][method]["responses"];
        let response = match &responses[wanted.to_string()] {
            Value::Null => &responses["default"],
            found => found,
        };
        let Some(schema) = response["content"]["application/json"]["schema"].as_object() else {
            continue;
        };
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let wrong = misfits(&document, &Value::Object(schema.clone()), &value, path);
        assert!(wrong.is_empty(), "{wrong:#?}\n{value:#}");
    }
    assert_eq!(seen, routes, "every route was asked");
    // The other one's requests are described as well as its answers.
    let wrong = misfits(
        &document,
        &document["components"]["schemas"]["Run"],
        &run,
        "run",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    for (method, path, status) in [
        ("GET", "/v2", 404),
        ("DELETE", "/v1/enclaves/cards", 405),
        ("GET", "/v1/enclaves/nobody", 404),
        ("GET", "/v1/enclaves/cards/logs?x=1", 400),
    ] {
        let (found, problem) = stage.ask(method, path, "");
        assert_eq!(found, status, "{path}");
        let wrong = misfits(
            &document,
            &document["components"]["schemas"]["Problem"],
            &problem,
            path,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

#[test]
fn slow_large_and_malformed_requests_end_and_others_are_answered_meanwhile() {
    let stage = Stage::new();
    let _daemon = stage.daemon();
    let connect = || UnixStream::connect(stage.house.path("api.sock")).expect("the API");
    // Heads that do not end, on almost every place that there is.
    let slow: Vec<UnixStream> = (0..60)
        .map(|_| {
            let mut stream = connect();
            stream
                .write_all(b"GET /v1/health HTTP/1.1\r\nX: ")
                .expect("a part");
            stream
        })
        .collect();
    assert_eq!(stage.raw("GET", "/v1/health", "").0, 200);
    let mut large = connect();
    large
        .write_all(b"POST /v1/enclaves HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        .expect("a head");
    let mut answer = [0; 12];
    large.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 400");
    let mut garbage = connect();
    garbage.write_all(&[0xff; 4096]).expect("garbage");
    let mut end = Vec::new();
    let _ = garbage.read_to_end(&mut end);
    for (method, path) in [
        ("GET", "/v1/enclaves/..%2f..%2fetc"),
        ("GET", "/v1/enclaves/%00"),
        ("GET", "//"),
        ("GET", "/v1/enclaves/"),
    ] {
        assert!(stage.raw(method, path, "").0 >= 400, "{path}");
    }
    assert_eq!(stage.raw("GET", "/v1/health", "").0, 200);
    drop(slow);
}

#[test]
fn metrics_tell_of_every_declared_enclave_and_of_nothing_that_a_caller_chose() {
    let stage = Stage::new();
    let address = free_port();
    stage.settings(&format!("[metrics]\nlisten = \"{address}\"\n"));
    stage.declare("cards", "1", &ingress(free_port()));
    stage.declare("broken", "1", "");
    let text = std::fs::read_to_string(stage.file("broken")).expect("the file");
    std::fs::write(
        stage.file("broken"),
        text.replace(&image("1").1, &image("2").1),
    )
    .expect("the file");
    let _daemon = stage.daemon();
    stage.serves("cards");
    eventually("a failure is counted", || {
        let (_, text) = stage.raw("GET", "/v1/metrics", "");
        let counted = text.lines().any(|line| {
            line.strip_prefix("anchorhold_enclave_failures_total{enclave=\"broken\"} ")
                .is_some_and(|count| count != "0")
        });
        counted.then_some(())
    });
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(address).expect("the listener");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let text = get("/metrics");
    for line in [
        "anchorhold_enclave_state{enclave=\"cards\",state=\"serving\"} 1",
        "anchorhold_enclave_state{enclave=\"broken\",state=\"serving\"} 0",
        "anchorhold_enclave_restarts_total{enclave=\"cards\"} 0",
        "anchorhold_enclave_attestation_age_seconds{enclave=\"cards\"}",
        "anchorhold_enclave_memory_bytes{enclave=\"cards\"}",
        "anchorhold_enclave_cpu_seconds_total{enclave=\"cards\"}",
        "anchorhold_enclave_calls_total{enclave=\"cards\"} 0",
        "anchorhold_window_flows_total{enclave=\"cards\",window=\"ingress/web\"} 0",
        "anchorhold_window_carried_bytes_total{enclave=\"cards\",window=\"ingress/web\",direction=\"to_enclave\"} 0",
        "anchorhold_window_latency_seconds_bucket{",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    let ready = get("/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("broken"),
        "{ready}"
    );
    assert!(get("/v1/enclaves").starts_with("HTTP/1.1 404"));
}
