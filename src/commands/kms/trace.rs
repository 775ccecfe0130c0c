//! A decision's trace in words: which statement, which condition, expected and found.
//!
//! Texts in it come from policies and requests, so what could steer a terminal is escaped.

use std::fmt::Write as _;

use serde_json::Value;

/// One paragraph for each statement that was looked at.
pub(super) fn in_words(trace: &Value) -> String {
    let mut text = String::new();
    for statement in trace.as_array().into_iter().flatten() {
        let string = |name: &str| clean(statement[name].as_str().unwrap_or_default());
        let source = match statement["source"].as_str() {
            Some("keyPolicy") => "key policy".to_owned(),
            Some("grant") => "grant".to_owned(),
            Some("permissionsBoundary") => format!("boundary {}", string("policy")),
            Some("sessionPolicy") => format!("session policy {}", string("policy")),
            _ => format!("policy {}", string("policy")),
        };
        let (effect, name) = (string("effect"), string("statement"));
        let outcome = match statement["outcome"].as_str() {
            Some("otherPrincipal") => "is about other principals",
            Some("otherAction") => "is about other actions",
            Some("otherResource") => "is about other resources",
            Some("conditionNotMet") => "does not apply, as a condition is not met",
            Some("appliesToAccount") => "applies to the account: its own policies decide",
            Some("appliesToRole") => "applies to the role",
            Some("applies") => "applies",
            _ => "is of an unknown kind",
        };
        let _ = writeln!(text, "  {source}, {effect} {name}: {outcome}");
        for condition in statement["conditions"].as_array().into_iter().flatten() {
            condition_in_words(condition, &mut text);
        }
    }
    text
}

fn condition_in_words(condition: &Value, text: &mut String) {
    let list = |name: &str, joint: &str| {
        let values = condition[name].as_array();
        values.map(|values| {
            let values = values.iter().map(|v| clean(v.as_str().unwrap_or_default()));
            values.collect::<Vec<_>>().join(joint)
        })
    };
    let met = condition["met"].as_bool() == Some(true);
    let key = condition["key"].as_str().unwrap_or_default();
    let _ = writeln!(
        text,
        "    {} {}{} {}",
        if met { "met    " } else { "NOT MET" },
        clean(key),
        register(key),
        clean(condition["operator"].as_str().unwrap_or_default()),
    );
    let expected = list("expected", " or ").unwrap_or_default();
    let found = list("found", ", ").unwrap_or_else(|| "nothing".to_owned());
    let _ = writeln!(text, "              expected  {expected}");
    let _ = writeln!(text, "              found     {found}");
}

/// Which register a key of the attestation document stands for.
fn register(key: &str) -> &'static str {
    if key.eq_ignore_ascii_case("kms:RecipientAttestation:ImageSha384") {
        " (PCR0)"
    } else {
        ""
    }
}

/// Control characters escaped, and what turns the direction of writing.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let plain = !c.is_control() && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if plain {
                vec![c]
            } else {
                c.escape_default().collect()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_trace_names_statement_condition_expected_and_found() {
        let trace = json!([
            {"source": "keyPolicy", "statement": "Owner", "effect": "Allow", "outcome": "otherPrincipal"},
            {"source": "keyPolicy", "statement": "Enclave", "effect": "Allow", "outcome": "conditionNotMet",
             "conditions": [{"met": false, "operator": "StringEquals",
                "key": "kms:RecipientAttestation:ImageSha384", "expected": ["aa", "bb"], "found": null}]},
            {"source": "identityPolicy", "policy": "own\u{1b}[2J", "statement": "#1", "effect": "Deny", "outcome": "applies"},
        ]);
        assert_eq!(
            in_words(&trace),
            "  key policy, Allow Owner: is about other principals\n  \
               key policy, Allow Enclave: does not apply, as a condition is not met\n    \
                 NOT MET kms:RecipientAttestation:ImageSha384 (PCR0) StringEquals\n              \
                 expected  aa or bb\n              \
                 found     nothing\n  \
               policy own\\u{1b}[2J, Deny #1: applies\n"
        );
    }
}
