//! The key service with a PKCS#11 token: SoftHSM2, which tests/tokens/setup installs.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../common/mod.rs"]
mod common;
mod key_stores;

use common::{House, Who};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "43214321";

/// A folder with tokens in it, and a service that knows them.
struct Tokens {
    house: House,
}

impl Tokens {
    fn new() -> Self {
        let house = House::new();
        std::fs::create_dir(house.path("tokens")).unwrap();
        let tokens = house.path("tokens");
        house.write(
            "softhsm2.conf",
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                tokens.display()
            ),
        );
        for (name, text) in [("pin", PIN), ("wrong-pin", "9999"), ("owner.secret", "s")] {
            let path = house.write(name, text);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self { house }
    }

    fn tool(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program)
            .args(arguments)
            .env("SOFTHSM2_CONF", self.house.path("softhsm2.conf"))
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}; run tests/tokens/setup"));
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn token(&self, label: &str) {
        self.tool(
            "softhsm2-util",
            &[
                "--init-token",
                "--free",
                "--label",
                label,
                "--so-pin",
                "1234",
                "--pin",
                PIN,
            ],
        );
    }

    fn key(&self, token: &str, label: &str, kind: &str) {
        let how = if kind.starts_with("rsa") {
            "--keypairgen"
        } else {
            "--keygen"
        };
        self.tool(
            "pkcs11-tool",
            &[
                "--module",
                MODULE,
                "--token-label",
                token,
                "--login",
                "--pin",
                PIN,
                how,
                "--key-type",
                kind,
                "--label",
                label,
                "--id",
                "01",
            ],
        );
    }

    /// A table of a configuration.
    fn table(&self, name: &str, token: &str, key: &str, pin: &str) -> String {
        let text = format!(
            "[root_key.token]\nmodule = \"{MODULE}\"\ntoken = \"{token}\"\nkey = \"{key}\"\npin_file = \"{pin}\"\n"
        );
        self.house.write(name, text);
        name.to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.house
            .command(Who::Owner, arguments)
            .env("SOFTHSM2_CONF", self.house.path("softhsm2.conf"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    }

    fn rewrap(&self, from: Option<&str>, to: &str) -> Result<(), String> {
        let mut arguments = vec!["kms", "rewrap", "--state", "kms", "--to", to];
        if let Some(from) = from {
            arguments.extend(["--config", from]);
        }
        let output = self.run(&arguments);
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What a service with this root key says that does not come up.
    fn start_fails(&self, table: &str) -> String {
        let table = std::fs::read_to_string(self.house.path(table)).unwrap();
        self.house.write(
            "kms.toml",
            format!(
                "state = \"kms\"\nregion = \"us-east-1\"\nlisten = \"127.0.0.1:0\"\nplain_http = true\n{table}"
            ),
        );
        let output = self.run(&["kms", "serve", "--config", "kms.toml"]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

#[test]
fn a_token_unlocks_the_store_by_aes_and_by_rsa_and_no_other_key_does() {
    let mut tokens = Tokens::new();
    tokens.token("one");
    tokens.token("two");
    for token in ["one", "two"] {
        tokens.key(token, "root", "aes:32");
        tokens.key(token, "pair", "rsa:2048");
    }
    let service = tokens.house.key_service(&["--plain-http"]);
    let made = tokens.house.must(Who::Owner, ["kms", "create-key"]);
    let key = String::from_utf8(made).unwrap().trim().to_owned();
    drop(service);

    let aes = tokens.table("aes.toml", "one", "root", "pin");
    tokens.rewrap(None, &aes).unwrap();
    let rsa = tokens.table("rsa.toml", "one", "pair", "pin");

    for (table, why) in [
        (
            tokens.table("a.toml", "two", "root", "pin"),
            "another root key",
        ),
        (tokens.table("b.toml", "three", "root", "pin"), "no token"),
        (tokens.table("c.toml", "one", "none", "pin"), "no AES key"),
        (
            tokens.table("d.toml", "one", "root", "wrong-pin"),
            "refused",
        ),
    ] {
        let before = content(&tokens.house.path("kms"));
        let said = tokens.start_fails(&table);
        assert!(said.contains(why), "{why}: {said}");
        assert!(!said.contains("9999") && !said.contains(PIN), "{said}");
        assert_eq!(content(&tokens.house.path("kms")), before, "{why}");
    }

    tokens.rewrap(Some(&aes), &rsa).unwrap();
    let said = tokens.rewrap(Some(&aes), &rsa).unwrap_err();
    assert!(!said.is_empty());
    let other = tokens.table("e.toml", "two", "pair", "pin");
    let before = content(&tokens.house.path("kms"));
    assert!(tokens.start_fails(&other).contains("another root key"));
    assert_eq!(content(&tokens.house.path("kms")), before);

    tokens
        .house
        .write("file.toml", "[root_key]\nfile = \"kms/next.key\"\n");
    tokens.rewrap(Some(&rsa), "file.toml").unwrap();
    std::fs::rename(
        tokens.house.path("kms/next.key"),
        tokens.house.path("kms/root.key"),
    )
    .unwrap();
    let _service = tokens.house.key_service(&["--plain-http"]);
    let alias = [
        "kms",
        "put-key-policy",
        "--key",
        &key,
        "--policy",
        "none.json",
    ];
    let said = tokens.house.must_fail(Who::Owner, alias);
    assert!(said.contains("none.json"), "{said}");
    tokens.house.write("policy.json", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}"#);
    tokens.house.must(
        Who::Owner,
        [
            "kms",
            "put-key-policy",
            "--key",
            &key,
            "--policy",
            "policy.json",
        ],
    );
}

#[test]
fn a_module_that_is_not_there_is_named() {
    let tokens = Tokens::new();
    tokens.house.write(
        "t.toml",
        "[root_key.token]\nmodule = \"/nowhere/module.so\"\ntoken = \"t\"\nkey = \"k\"\npin_file = \"pin\"\n",
    );
    let said = tokens.start_fails("t.toml");
    assert!(said.contains("/nowhere/module.so"), "{said}");
}
