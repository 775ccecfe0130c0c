//! What the manifest accepts, and how it says what it refuses.

#![allow(clippy::unwrap_used)]

use anchorhold_manifest::{
    Api, Contract, DEFAULT_MANIFEST, DataKeyCache, Delivery, Grant, Http, JobStderr, Manifest,
    ManifestError, Position, Restart,
};
use proptest::prelude::*;

const FULL: &str = r#"
[image]
name = "cards"
version = "1.0.0"
[job]
command = ["/job", "--strict"]
contract = "once"
environment = { KEY = "v", _B2 = "" }
max_line_bytes = 2048
timeout_seconds = 5
[key_service]
endpoint = "https://KMS.example:8443/"
ca = "ca.pem"
key = "alias/cards"
region = "us-east-1"
[secrets.tokenization-key]
key = "alias/cards-secrets"
[secrets.other]
[egress]
allow = ["Example.com:443", "[::1]:80", "10.0.0.1:1"]
[resources]
memory_mib = 512
cpus = 2
[log]
job_stderr = "forward"
"#;

fn refusal(text: &str) -> ManifestError {
    Manifest::parse(text).unwrap_err()
}

/// A whole manifest around the given key service lines.
fn with_endpoint(endpoint: &str) -> String {
    format!(
        "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"{endpoint}\"\nkey = \"k\"\nregion = \"r\"\n"
    )
}

#[test]
fn every_key_is_read() {
    let manifest = Manifest::parse(FULL).unwrap();
    assert_eq!(manifest.image.name.as_deref(), Some("cards"));
    assert_eq!(manifest.image.version.as_deref(), Some("1.0.0"));
    assert_eq!(manifest.job.command, ["/job", "--strict"]);
    assert_eq!(manifest.job.contract, Contract::Once);
    assert_eq!(manifest.job.environment["KEY"], "v");
    assert_eq!(manifest.job.environment["_B2"], "");
    assert_eq!(manifest.job.max_line_bytes, 2048);
    assert_eq!(manifest.job.timeout_seconds, 5);
    let service = manifest.key_service.as_ref().unwrap();
    assert_eq!(service.endpoint, "https://KMS.example:8443");
    assert_eq!(service.authority(), "kms.example:8443");
    assert_eq!(service.ca.as_deref(), Some("ca.pem"));
    assert_eq!(
        (service.key.as_str(), service.region.as_str()),
        ("alias/cards", "us-east-1")
    );
    assert_eq!(
        manifest.secrets["tokenization-key"].key.as_deref(),
        Some("alias/cards-secrets")
    );
    assert_eq!(manifest.secrets["other"].key, None);
    assert_eq!(
        manifest.egress.allow,
        ["example.com:443", "[::1]:80", "10.0.0.1:1"]
    );
    assert_eq!(
        (manifest.resources.memory_mib, manifest.resources.cpus),
        (512, 2)
    );
    assert_eq!(manifest.log.job_stderr, JobStderr::Forward);
}

#[test]
fn the_default_manifest_runs_job_with_the_documented_defaults() {
    let manifest = Manifest::parse(DEFAULT_MANIFEST).unwrap();
    assert_eq!(manifest.job.command, ["/job"]);
    assert_eq!(manifest.job.contract, Contract::Lines);
    assert!(manifest.job.environment.is_empty());
    assert_eq!(manifest.job.max_line_bytes, 1 << 20);
    assert_eq!(manifest.job.timeout_seconds, 600);
    assert_eq!(manifest.key_service, None);
    assert!(manifest.secrets.is_empty() && manifest.egress.allow.is_empty());
    assert_eq!(
        (manifest.resources.memory_mib, manifest.resources.cpus),
        (256, 1)
    );
    assert_eq!(manifest.log.job_stderr, JobStderr::Drop);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_a_suggestion() {
    let error = refusal("[job]\ncommand = [\"/job\"]\n  time_out_seconds = 3\n");
    assert_eq!(error.key(), Some("job.time_out_seconds"));
    assert_eq!(error.position(), Some(Position { line: 3, column: 3 }));
    assert_eq!(
        error.to_string(),
        "line 3, column 3: unknown key `job.time_out_seconds`: did you mean `timeout_seconds`? \
         (known here: command, contract, environment, max_line_bytes, timeout_seconds, working_directory, user, settings)"
    );
}

#[test]
fn unknown_keys_are_refused_in_every_table() {
    for table in [
        "image",
        "job",
        "key_service",
        "secrets.tokenization-key",
        "egress",
        "resources",
        "log",
    ] {
        let header = format!("[{table}]\n");
        let text = FULL.replace(&header, &format!("{header}surprise = 1\n"));
        assert_ne!(text, FULL);
        let error = refusal(&text);
        assert!(matches!(error, ManifestError::UnknownKey { .. }), "{error}");
        assert_eq!(error.key(), Some(format!("{table}.surprise").as_str()));
    }
    let error = refusal("[job]\ncommand = [\"/job\"]\n[debug]\n");
    assert_eq!(error.key(), Some("debug"));
}

#[test]
fn the_first_of_several_unknown_keys_is_reported() {
    let error = refusal("zebra = 1\napple = 2\n[job]\ncommand = [\"/job\"]\n");
    assert_eq!(error.key(), Some("zebra"));
}

#[test]
fn columns_count_characters() {
    let error = refusal("[job]\ncommand = [\"/ä\", 7]\n");
    assert_eq!(error.key(), Some("job.command[1]"));
    assert_eq!(
        error.position(),
        Some(Position {
            line: 2,
            column: 18
        })
    );
}

#[test]
fn a_syntax_error_says_where() {
    let error = refusal("[job]\ncommand = [\"/job\"\n[log]\n");
    assert!(matches!(error, ManifestError::Syntax { .. }), "{error:?}");
    assert!(error.position().unwrap().line >= 2);
}

#[test]
fn a_key_given_twice_is_refused() {
    let error = refusal("[job]\ncommand = [\"/job\"]\ncommand = [\"/job\"]\n");
    assert!(matches!(error, ManifestError::Syntax { .. }));
    assert_eq!(error.position().unwrap().line, 3);
}

#[test]
fn a_missing_key_names_its_remedy() {
    for (text, key) in [
        ("", "job"),
        ("[job]\n", "job.command"),
        (
            "[job]\ncommand = [\"/job\"]\n[key_service]\nkey = \"k\"\nregion = \"r\"\n",
            "key_service.endpoint",
        ),
        (
            "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"https://a\"\nregion = \"r\"\n",
            "key_service.key",
        ),
        (
            "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"https://a\"\nkey = \"k\"\n",
            "key_service.region",
        ),
    ] {
        let error = refusal(text);
        assert!(matches!(error, ManifestError::MissingKey { .. }), "{error}");
        assert_eq!(error.key(), Some(key));
    }
}

#[test]
fn commands_must_be_plain_absolute_paths_outside_the_runtime() {
    for command in [
        "[]",
        "[\"\"]",
        "[\"job\"]",
        "[\"/\"]",
        "[\"/a/../b\"]",
        "[\"/a//b\"]",
        "[\"/./a\"]",
        "[\"/a/\"]",
        "[\"/init\"]",
        "[\"/anchorhold/x\"]",
        "[\"/a\\u0000\"]",
        "[\"/a\", \"b\\u0000\"]",
    ] {
        let error = refusal(&format!("[job]\ncommand = {command}\n"));
        assert!(
            matches!(error, ManifestError::Invalid { .. }),
            "{command}: {error}"
        );
    }
}

#[test]
fn endpoints_must_be_https_without_path_user_or_query() {
    for endpoint in [
        "http://a",
        "a:443",
        "https://",
        "https://a/b",
        "https://u@a",
        "https://a?x",
        "https://a:0",
        "https://a:65536",
        "https://a:+1",
        "https://a:0443",
        "https://a:",
        "https://a..b",
        "https://[::1",
        "https://[zz]:1",
        "https://[::1]x",
        "HTTPS://a",
        "https://a b",
        "https://a//",
    ] {
        let error = refusal(&with_endpoint(endpoint));
        assert_eq!(
            error.key(),
            Some("key_service.endpoint"),
            "{endpoint}: {error}"
        );
        assert_eq!(
            error.position(),
            Some(Position {
                line: 4,
                column: 12
            })
        );
    }
    for (endpoint, authority) in [
        (
            "https://kms.us-east-1.amazonaws.com",
            "kms.us-east-1.amazonaws.com:443",
        ),
        ("https://[::1]:8443", "[::1]:8443"),
        ("https://[::1]", "[::1]:443"),
        ("https://127.0.0.1:1/", "127.0.0.1:1"),
    ] {
        let manifest = Manifest::parse(&with_endpoint(endpoint)).unwrap();
        assert_eq!(manifest.key_service.unwrap().authority(), authority);
    }
}

#[test]
fn egress_entries_need_a_host_and_a_port_and_have_one_reading() {
    for target in [
        "example.com",
        "example.com:",
        ":443",
        "*.com:443",
        "*:443",
        "10.0.0.1/8:443",
        "2130706433:80",
        "https://a:1",
        "a:b",
        "a:1:2",
        "*:*",
    ] {
        let error = refusal(&format!(
            "[job]\ncommand = [\"/job\"]\n[egress]\nallow = [\"a:1\", \"{target}\"]\n"
        ));
        assert_eq!(error.key(), Some("egress.allow[1]"), "{target}: {error}");
    }
}

#[test]
fn an_enclave_may_be_led_to_its_key_service_and_to_what_its_egress_names() {
    let text = format!(
        "{}[egress]\nallow = [\"*.Example.com:443\", \"10.0.0.0/8:5432\", \"a.example:1\"]\n",
        with_endpoint("https://kms.example")
    );
    let manifest = Manifest::parse(&text).unwrap();
    assert_eq!(
        manifest.egress.allow,
        ["*.example.com:443", "10.0.0.0/8:5432", "a.example:1"]
    );
    let reach = manifest.reach();
    for (target, permitted) in [
        ("kms.example:443", true),
        ("b.example.com:443", true),
        ("10.1.1.1:5432", true),
        ("a.example:1", true),
        ("a.example:2", false),
        ("example.com:443", false),
    ] {
        assert_eq!(
            reach.permits(&target.parse().unwrap()),
            permitted,
            "{target}"
        );
    }
    assert!(
        Manifest::parse(DEFAULT_MANIFEST)
            .unwrap()
            .reach()
            .is_empty()
    );
}

#[test]
fn secret_names_are_safe_as_file_names() {
    let long = "a".repeat(65);
    for name in ["\"\"", "\"..\"", "\"a/b\"", "A", "a_b", long.as_str()] {
        let text = format!("{}[secrets.{name}]\n", with_endpoint("https://a"));
        assert!(
            matches!(refusal(&text), ManifestError::Invalid { .. }),
            "{name}"
        );
    }
}

#[test]
fn a_secret_needs_a_key_service() {
    let error = refusal("[job]\ncommand = [\"/job\"]\n[secrets.a]\n");
    assert_eq!(error.key(), Some("secrets.a"));
    assert!(error.to_string().contains("[key_service]"), "{error}");
}

#[test]
fn numbers_outside_their_bounds_name_the_bounds() {
    for (table, key, value) in [
        ("resources", "memory_mib", "31"),
        ("resources", "memory_mib", "4294967296"),
        ("resources", "cpus", "0"),
        ("resources", "cpus", "-1"),
        ("job", "max_line_bytes", "63"),
        ("job", "max_line_bytes", "67108865"),
        ("job", "timeout_seconds", "0"),
        ("job", "timeout_seconds", "99999999999999999999999"),
    ] {
        let text = if table == "job" {
            format!("[job]\ncommand = [\"/job\"]\n{key} = {value}\n")
        } else {
            format!("[job]\ncommand = [\"/job\"]\n[{table}]\n{key} = {value}\n")
        };
        let error = refusal(&text);
        assert!(
            matches!(error, ManifestError::OutOfRange { .. }),
            "{key} = {value}: {error}"
        );
        assert!(
            error.to_string().contains("choose a number from"),
            "{error}"
        );
    }
    assert_eq!(
        Manifest::parse("[job]\ncommand = [\"/job\"]\nmax_line_bytes = 0x1_000\n")
            .unwrap()
            .job
            .max_line_bytes,
        4096
    );
}

#[test]
fn words_that_are_no_choice_are_refused_with_the_choices() {
    let error = refusal("[job]\ncommand = [\"/job\"]\ncontract = \"line\"\n");
    assert_eq!(
        error.to_string(),
        "line 3, column 12: `job.contract` is \"line\": choose \"lines\" or \"http\" or \"once\""
    );
}

#[test]
fn a_service_has_limits_of_its_own_and_they_are_for_services_alone() {
    let text = "[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n";
    let manifest = Manifest::parse(text).unwrap();
    assert_eq!(manifest.job.contract, Contract::Http);
    assert_eq!(manifest.http, Some(Http::default()));
    let text = format!(
        "{text}[http]\nport = 8080\nready_path = \"/health?x=1\"\nready_seconds = 3\nrestart = \"on-failure\"\n\
         max_requests = 2\nmax_header_bytes = 8192\nmax_body_bytes = 0\n"
    );
    let expected = Http {
        port: Some(8080),
        ready_path: Some("/health?x=1".to_owned()),
        ready_seconds: 3,
        restart: Restart::OnFailure,
        max_requests: 2,
        max_header_bytes: 8192,
        max_body_bytes: 0,
    };
    assert_eq!(Manifest::parse(&text).unwrap().http, Some(expected));
    for (wrong, key) in [
        (text.replace("\"http\"", "\"lines\""), "http"),
        (text.replace("/health", "health"), "http.ready_path"),
        (text.replace("/health", "/he alth"), "http.ready_path"),
        (text.replace("on-failure", "sometimes"), "http.restart"),
        (
            text.replace("max_requests = 2", "max_requests = 0"),
            "http.max_requests",
        ),
        (text.replace("8192", "100"), "http.max_header_bytes"),
        // Whom only root may be, and whom a connecting socket may happen to be.
        (text.replace("8080", "1023"), "http.port"),
        (text.replace("8080", "32768"), "http.port"),
        (text.replace("max_requests", "requests"), "http.requests"),
    ] {
        assert_eq!(refusal(&wrong).key(), Some(key), "{wrong}");
    }
    assert_eq!(Manifest::parse(DEFAULT_MANIFEST).unwrap().http, None);
}

#[test]
fn settings_are_the_jobs_own_and_come_to_it_as_json() {
    let text = "[job]\ncommand = [\"/job\"]\n[job.settings]\nname = \"ü\"\nlimit = 0x10\nratio = 0.5\non = true\n\
                [job.settings.keys.a]\nlist = [1, [\"b\"], { c = -1 }]\n";
    let settings = Manifest::parse(text).unwrap().job.settings.unwrap();
    let expected = serde_json::json!({
        "name": "ü", "limit": 16, "ratio": 0.5, "on": true,
        "keys": { "a": { "list": [1, ["b"], { "c": -1 }] } },
    });
    assert_eq!(settings, expected);
    assert_eq!(
        Manifest::parse(DEFAULT_MANIFEST).unwrap().job.settings,
        None
    );
    let nested = |levels: usize| format!("a = {}1{}", "[".repeat(levels), "]".repeat(levels));
    let with = |line: &str| format!("[job]\ncommand = [\"/job\"]\n[job.settings]\n{line}\n");
    assert!(Manifest::parse(&with(&nested(15))).is_ok());
    for (line, key) in [
        ("when = 2026-01-01", "job.settings.when"),
        ("big = 99999999999999999999", "job.settings.big"),
        ("far = inf", "job.settings.far"),
        ("a.b = nan", "job.settings.a.b"),
        (&nested(16), "job.settings.a"),
        // A tab is one byte here and two in JSON.
        (&format!("a = '{}'", "\t".repeat(40_000)), "job.settings"),
    ] {
        assert_eq!(refusal(&with(line)).key(), Some(key));
    }
    assert_eq!(
        refusal("[job]\ncommand = [\"/job\"]\nsettings = 1\n").key(),
        Some("job.settings")
    );
}

const SERVICE: &str = "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"https://k\"\nkey = \"alias/k\"\nregion = \"r\"\n";

#[test]
fn nothing_is_granted_that_the_manifest_does_not_name() {
    assert_eq!(Manifest::parse(DEFAULT_MANIFEST).unwrap().api, None);
    let text = format!("{SERVICE}[api]\n");
    assert_eq!(Manifest::parse(&text).unwrap().api, Some(Api::default()));
    let text = format!(
        "{SERVICE}[secrets.a]\n[secrets.b]\n[api]\ngrant = [\"seal\", \"attest\"]\nsecrets = [\"b\"]\nextend_pcrs = [16, 31]\n"
    );
    let api = Manifest::parse(&text).unwrap().api.unwrap();
    assert_eq!(api.grant, [Grant::Seal, Grant::Attest].into());
    assert_eq!(api.secrets, ["b".to_owned()].into());
    assert_eq!(api.extend_pcrs, [16, 31].into());
    for (wrong, key) in [
        (text.replace("\"seal\"", "\"sael\""), "api.grant[0]"),
        (
            text.replace("\"attest\"", "\"attest-public-key\""),
            "api.grant",
        ),
        (text.replace("[\"b\"]", "[\"c\"]"), "api.secrets[0]"),
        (text.replace("16,", "15,"), "api.extend_pcrs[0]"),
        (text.replace("31]", "32]"), "api.extend_pcrs[1]"),
        (text.replace("grant", "grants"), "api.grants"),
        (
            "[job]\ncommand = [\"/job\"]\n[api]\ngrant = [\"open\"]\n".to_owned(),
            "api.grant",
        ),
    ] {
        assert_eq!(refusal(&wrong).key(), Some(key), "{wrong}");
    }
}

#[test]
fn a_secret_is_delivered_as_the_manifest_says() {
    let secret = |lines: &str| {
        let manifest = Manifest::parse(&format!("{SERVICE}[secrets.a]\n{lines}"));
        manifest.map(|manifest| manifest.secrets["a"].clone())
    };
    assert_eq!(secret("").unwrap().delivery, Delivery::File);
    let found = secret("as = \"environment\"\nvariable = \"TOKEN\"\n").unwrap();
    assert_eq!(found.delivery, Delivery::Environment("TOKEN".to_owned()));
    let found = secret("as = \"api\"\nrefresh_seconds = 5\n").unwrap();
    assert_eq!(
        (found.delivery, found.refresh_seconds),
        (Delivery::Api, Some(5))
    );
    for (wrong, key) in [
        ("as = \"environment\"\n", "secrets.a.as"),
        ("as = \"argument\"\n", "secrets.a.as"),
        ("variable = \"TOKEN\"\n", "secrets.a.variable"),
        (
            "as = \"environment\"\nvariable = \"A=B\"\n",
            "secrets.a.variable",
        ),
        (
            "as = \"environment\"\nvariable = \"A\"\nrefresh_seconds = 5\n",
            "secrets.a.refresh_seconds",
        ),
    ] {
        assert_eq!(secret(wrong).unwrap_err().key(), Some(key), "{wrong}");
    }
}

#[test]
fn a_data_key_cache_is_kept_only_where_it_is_asked_for() {
    let cache = |lines: &str| {
        let manifest = Manifest::parse(&format!("{SERVICE}{lines}"));
        manifest.map(|manifest| manifest.key_service.unwrap().data_key_cache)
    };
    assert_eq!(cache("").unwrap(), None);
    let table = "[key_service.data_key_cache]\n";
    assert_eq!(cache(table).unwrap(), Some(DataKeyCache::default()));
    let found = cache(&format!(
        "{table}capacity = 2\nmax_age_seconds = 3\nmax_messages = 4\nmax_bytes = 5\n"
    ));
    let expected = DataKeyCache {
        capacity: 2,
        max_age_seconds: 3,
        max_messages: 4,
        max_bytes: 5,
    };
    assert_eq!(found.unwrap(), Some(expected));
    let error = cache(&format!("{table}capacity = 0\n")).unwrap_err();
    assert_eq!(error.key(), Some("key_service.data_key_cache.capacity"));
}

#[test]
fn values_of_the_job_environment_never_appear_in_errors() {
    let error = refusal("[job]\ncommand = [\"/job\"]\nenvironment = { A = \"hunter2\\u0000\" }\n");
    assert_eq!(error.key(), Some("job.environment.A"));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn variable_names_are_checked() {
    for name in ["\"\"", "1A", "\"A=B\"", "a-b"] {
        let error = refusal(&format!(
            "[job]\ncommand = [\"/job\"]\n[job.environment]\n{name} = \"x\"\n"
        ));
        assert!(
            matches!(error, ManifestError::Invalid { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_huge_manifest_is_refused_before_it_is_read() {
    let text = format!("# {}\n{DEFAULT_MANIFEST}", "x".repeat(64 * 1024));
    assert!(matches!(refusal(&text), ManifestError::TooLarge { .. }));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    let text = format!("a = {}{}", "[".repeat(30_000), "]".repeat(30_000));
    assert!(Manifest::parse(&text).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Manifest::parse(&text);
    }

    #[test]
    fn a_damaged_manifest_is_refused_with_a_place_or_read(at in 0..FULL.len(), byte in 0u8..128) {
        let mut damaged = FULL.as_bytes().to_vec();
        damaged[at] = byte;
        if let Ok(text) = std::str::from_utf8(&damaged) && let Err(error) = Manifest::parse(text) {
            let at = error.position().unwrap();
            prop_assert!(at.line >= 1 && at.column >= 1 && at.line <= text.split('\n').count());
        }
    }
}

#[test]
fn fields_of_lines_are_named_for_the_way_in_and_the_way_out() {
    let base = with_endpoint("https://k");
    let table = "[fields]\nopen = [\"pan\", \"card.pan\"]\nseal = [\"emails[]\"]\nrow = \"id\"\ncontext = { purpose = \"cards\" }\n";
    let manifest = Manifest::parse(&format!("{base}{table}")).unwrap();
    let fields = manifest.fields.unwrap();
    assert_eq!(fields.open, ["pan", "card.pan"]);
    assert_eq!(fields.seal, ["emails[]"]);
    assert_eq!(fields.row.as_deref(), Some("id"));
    assert_eq!(fields.context["purpose"], "cards");
    for (table, key) in [
        ("[fields]\n", "fields"),
        ("[fields]\nopen = [\"a..b\"]\n", "fields.open[0]"),
        ("[fields]\nseal = [\"a\", \"[]\"]\n", "fields.seal[1]"),
        ("[fields]\nopen = [\"a\"]\nrow = \"id[]\"\n", "fields.row"),
        (
            "[fields]\nopen = [\"a\"]\ncontext = { \"anchorhold:kind\" = \"x\" }\n",
            "fields.context.anchorhold:kind",
        ),
        (
            "[fields]\nopen = [\"a\"]\ncontext = { a = \"\" }\n",
            "fields.context.a",
        ),
        ("[fields]\nopen = [\"a\"]\nrows = \"id\"\n", "fields.rows"),
    ] {
        let error = refusal(&format!("{base}{table}"));
        assert!(
            error
                .key()
                .is_some_and(|found| found.replace('"', "") == key),
            "{table}: {error}"
        );
    }
    let error = refusal("[job]\ncommand = [\"/job\"]\n[fields]\nopen = [\"a\"]\n");
    assert_eq!(error.key(), Some("fields"));
    let http = base.replace("command", "contract = \"http\"\ncommand");
    let error = refusal(&format!("{http}[fields]\nopen = [\"a\"]\n"));
    assert!(error.to_string().contains("lines"), "{error}");
}

#[test]
fn a_log_is_sealed_to_a_key_of_the_key_service() {
    let base = with_endpoint("https://k");
    let manifest = Manifest::parse(&format!("{base}[log]\nencrypt_to = \"alias/logs\"\n")).unwrap();
    assert_eq!(manifest.log.encrypt_to.as_deref(), Some("alias/logs"));
    assert_eq!(Manifest::parse(&base).unwrap().log.encrypt_to, None);
    let error = refusal(&format!("{base}[log]\nencrypt_to = \"no key\"\n"));
    assert_eq!(error.key(), Some("log.encrypt_to"));
    let error = refusal("[job]\ncommand = [\"/job\"]\n[log]\nencrypt_to = \"alias/logs\"\n");
    assert!(error.to_string().contains("key service"), "{error}");
}
