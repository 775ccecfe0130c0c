//! Policy documents, read strictly: an element that is not understood refuses the whole
//! document, since a rule that is not understood cannot be enforced.
//!
//! Grammar: AWS, "Grammar of the IAM JSON policy language".

use super::Context;
use super::condition::{Condition, ConditionError};
use super::pattern::{Case, Pattern, PatternError, Syntax};
use super::principal::{PrincipalElement, PrincipalName};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use thiserror::Error;

/// Longest policy text, in bytes: AWS KMS's limit for key policies.
pub const MAX_POLICY_BYTES: usize = 32 * 1024;

/// Where a policy hangs, which decides what it must and may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key policy: each statement names principals.
    Key,
    /// A policy of a user or role: the principal is the one it hangs on.
    Identity,
}

/// Why a text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Longer than [`MAX_POLICY_BYTES`].
    #[error("the policy has {0} bytes; at most {MAX_POLICY_BYTES} are allowed")]
    TooLong(usize),
    /// Not JSON, or a member named twice.
    #[error("the policy is not well-formed JSON: {0}")]
    Json(String),
    /// Not an object with statements.
    #[error("the policy must be an object with Version and Statement")]
    Shape,
    /// Neither 2012-10-17 nor 2008-10-17.
    #[error("{0} is not a policy version; use \"2012-10-17\"")]
    Version(String),
    /// An element that this version of the language does not have.
    #[error("{place}: the element {element:?} is unknown")]
    Element {
        /// The policy or the statement.
        place: String,
        /// Its name.
        element: String,
    },
    /// An element that must be there.
    #[error("{place}: {element} is missing")]
    Missing {
        /// The statement.
        place: String,
        /// Its name.
        element: &'static str,
    },
    /// Two elements of which only one may be there.
    #[error("{place}: {element} cannot stand here")]
    Misplaced {
        /// The statement.
        place: String,
        /// Its name.
        element: &'static str,
    },
    /// An element whose value has the wrong shape.
    #[error("{place}: {element} must be {wanted}")]
    Value {
        /// The statement.
        place: String,
        /// Its name.
        element: &'static str,
        /// What it takes.
        wanted: &'static str,
    },
    /// A name that is no principal.
    #[error("{place}: {principal:?} is not a principal (wildcards are not allowed within an ARN)")]
    Principal {
        /// The statement.
        place: String,
        /// As the policy has it.
        principal: String,
    },
    /// Two statements of one name.
    #[error("two statements have the Sid {0:?}")]
    SidTwice(String),
    /// AWS KMS takes Latin-1 without control characters only.
    #[error("the policy has the character {0:?}, which a key policy must not have")]
    Character(char),
    /// A pattern that cannot be read.
    #[error("{place}: {source}")]
    Pattern {
        /// The statement.
        place: String,
        /// Why.
        source: PatternError,
    },
    /// A condition that cannot be read.
    #[error("{place}: {source}")]
    Condition {
        /// The statement.
        place: String,
        /// Why.
        source: ConditionError,
    },
}

impl PolicyError {
    /// What the caller of the service gets: AWS's text where it is known, else this error's own.
    pub fn message(&self) -> String {
        match self {
            Self::Principal { .. } => {
                "Policy contains a statement with one or more invalid principals.".to_owned()
            }
            Self::Condition {
                source: source @ ConditionError::OverlyPermissive(_),
                ..
            } => source.to_string(),
            other => other.to_string(),
        }
    }
}

/// A policy whose every element is understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub(super) statements: Vec<Statement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(super) enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    /// The Sid, or the statement's place: `#1`.
    pub(super) label: String,
    pub(super) effect: Effect,
    /// `None` in identity policies.
    pub(super) principal: Option<PrincipalElement>,
    actions: Selection,
    resources: Selection,
    pub(super) conditions: Vec<Condition>,
}

/// `Action` or `NotAction`, `Resource` or `NotResource`.
#[derive(Debug, Clone, PartialEq)]
struct Selection {
    patterns: Vec<Pattern>,
    inverted: bool,
}

impl Selection {
    const NOTHING: Self = Self {
        patterns: Vec::new(),
        inverted: false,
    };

    fn selects(&self, text: &str, context: &Context, case: Case) -> bool {
        self.inverted != self.patterns.iter().any(|p| p.matches(text, context, case))
    }
}

impl Statement {
    pub(super) fn has_action(&self, action: &str) -> bool {
        // Actions take no variables, so that no context is needed.
        self.actions.selects(action, &Context::new(), Case::Ignored)
    }

    /// Whether the statement names this anchor; see [`Condition::names_anchor`].
    pub(super) fn names_anchor(&self, fingerprint: &str) -> bool {
        self.conditions.iter().any(|c| c.names_anchor(fingerprint))
    }

    pub(super) fn has_resource(&self, resource: &str, context: &Context) -> bool {
        self.resources.selects(resource, context, Case::Kept)
    }
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Whatever is not understood in full. Over the wire the caller gets a
    /// `MalformedPolicyDocumentException` with the error's text.
    pub fn parse(text: &str, kind: Kind) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong(text.len()));
        }
        if kind == Kind::Key
            && let Some(strange) = text.chars().find(|c| !is_policy_character(*c))
        {
            return Err(PolicyError::Character(strange));
        }
        let value = crate::json::value(text).map_err(|e| PolicyError::Json(e.to_string()))?;
        let Value::Object(object) = value else {
            return Err(PolicyError::Shape);
        };
        if let Some(unknown) = object
            .keys()
            .find(|k| !matches!(k.as_str(), "Version" | "Id" | "Statement"))
        {
            return Err(PolicyError::Element {
                place: "policy".to_owned(),
                element: unknown.clone(),
            });
        }
        // Without a version, AWS reads the older one, which has no variables.
        let variables = match object.get("Version") {
            None => false,
            Some(Value::String(v)) if v == "2012-10-17" => true,
            Some(Value::String(v)) if v == "2008-10-17" => false,
            Some(other) => return Err(PolicyError::Version(other.to_string())),
        };
        if !matches!(object.get("Id"), None | Some(Value::String(_))) {
            return Err(PolicyError::Value {
                place: "policy".to_owned(),
                element: "Id",
                wanted: "a string",
            });
        }
        let statements = match object.get("Statement") {
            Some(Value::Array(list)) if !list.is_empty() => list.iter().collect(),
            Some(single @ Value::Object(_)) => vec![single],
            _ => return Err(PolicyError::Shape),
        };
        let statements: Result<Vec<_>, _> = statements
            .into_iter()
            .enumerate()
            .map(|(index, value)| statement(index, value, kind, variables))
            .collect();
        let statements = statements?;
        let mut labels = BTreeSet::new();
        for statement in &statements {
            if !labels.insert(statement.label.as_str()) {
                return Err(PolicyError::SidTwice(statement.label.clone()));
            }
        }
        Ok(Self { statements })
    }
}

/// One statement being read, with its name for messages.
struct Reader<'a> {
    place: String,
    elements: &'a Map<String, Value>,
    variables: bool,
}

fn statement(
    index: usize,
    value: &Value,
    kind: Kind,
    variables: bool,
) -> Result<Statement, PolicyError> {
    let number = format!("#{}", index + 1);
    let Value::Object(elements) = value else {
        return Err(PolicyError::Value {
            place: format!("statement {number}"),
            element: "Statement",
            wanted: "an object",
        });
    };
    let label = match elements.get("Sid") {
        Some(Value::String(sid)) if !sid.is_empty() => sid.clone(),
        None | Some(Value::String(_)) => number.clone(),
        Some(_) => {
            return Err(PolicyError::Value {
                place: format!("statement {number}"),
                element: "Sid",
                wanted: "a string",
            });
        }
    };
    let reader = Reader {
        place: format!("statement {label}"),
        elements,
        variables,
    };
    reader.only(&[
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    ])?;
    let effect = match elements.get("Effect") {
        Some(Value::String(e)) if e == "Allow" => Effect::Allow,
        Some(Value::String(e)) if e == "Deny" => Effect::Deny,
        None => return Err(reader.missing("Effect")),
        Some(_) => return Err(reader.wrong("Effect", "\"Allow\" or \"Deny\"")),
    };
    // AWS KMS takes a statement without one of them, which then has no effect. A Deny without
    // effect would leave open what its author wanted closed, and is refused.
    let may_lack = kind == Kind::Key && effect == Effect::Allow;
    Ok(Statement {
        principal: reader.principal(kind, effect)?,
        actions: reader.selection("Action", "NotAction", may_lack)?,
        resources: reader.selection("Resource", "NotResource", may_lack)?,
        conditions: reader.conditions(kind)?,
        label,
        effect,
    })
}

impl Reader<'_> {
    fn missing(&self, element: &'static str) -> PolicyError {
        PolicyError::Missing {
            place: self.place.clone(),
            element,
        }
    }

    fn wrong(&self, element: &'static str, wanted: &'static str) -> PolicyError {
        PolicyError::Value {
            place: self.place.clone(),
            element,
            wanted,
        }
    }

    fn misplaced(&self, element: &'static str) -> PolicyError {
        PolicyError::Misplaced {
            place: self.place.clone(),
            element,
        }
    }

    fn only(&self, known: &[&str]) -> Result<(), PolicyError> {
        match self.elements.keys().find(|k| !known.contains(&k.as_str())) {
            None => Ok(()),
            Some(unknown) => Err(PolicyError::Element {
                place: self.place.clone(),
                element: unknown.clone(),
            }),
        }
    }

    fn principal(
        &self,
        kind: Kind,
        effect: Effect,
    ) -> Result<Option<PrincipalElement>, PolicyError> {
        let named = self.elements.get("Principal");
        let all_but = self.elements.get("NotPrincipal");
        match (kind, named, all_but) {
            (Kind::Identity, None, None) => Ok(None),
            (Kind::Identity, Some(_), _) => Err(self.misplaced("Principal")),
            (Kind::Identity, None, Some(_)) => Err(self.misplaced("NotPrincipal")),
            (Kind::Key, None, None) => Err(self.missing("Principal")),
            (Kind::Key, Some(_), Some(_)) => Err(self.misplaced("NotPrincipal")),
            (Kind::Key, Some(value), None) => Ok(Some(PrincipalElement::Named(
                self.names("Principal", value)?,
            ))),
            // "Everyone but …" may be denied, never allowed.
            (Kind::Key, None, Some(_)) if effect == Effect::Allow => {
                Err(self.misplaced("NotPrincipal"))
            }
            (Kind::Key, None, Some(value)) => Ok(Some(PrincipalElement::AllBut(
                self.names("NotPrincipal", value)?,
            ))),
        }
    }

    fn names(
        &self,
        element: &'static str,
        value: &Value,
    ) -> Result<Vec<PrincipalName>, PolicyError> {
        let forms = match value {
            Value::String(all) if all == "*" => return Ok(vec![PrincipalName::Everyone]),
            Value::Object(forms) if !forms.is_empty() => forms,
            _ => return Err(self.wrong(element, "\"*\" or an object such as {\"AWS\": \"…\"}")),
        };
        let mut names = Vec::new();
        for (form, value) in forms {
            let read: fn(&str) -> Option<PrincipalName> = match form.as_str() {
                "AWS" => PrincipalName::aws,
                "Service" => PrincipalName::service,
                "Federated" => PrincipalName::federated,
                // S3's; a key policy cannot name one.
                "CanonicalUser" => |_| None,
                _ => {
                    return Err(PolicyError::Element {
                        place: format!("{}, {element}", self.place),
                        element: form.clone(),
                    });
                }
            };
            for name in self.strings(element, value)? {
                names.push(read(&name).ok_or_else(|| PolicyError::Principal {
                    place: self.place.clone(),
                    principal: name.clone(),
                })?);
            }
        }
        Ok(names)
    }

    /// A string or a list of strings, not empty.
    fn strings(&self, element: &'static str, value: &Value) -> Result<Vec<String>, PolicyError> {
        let wrong = || self.wrong(element, "a string or a list of strings, not empty");
        match value {
            Value::String(one) => Ok(vec![one.clone()]),
            Value::Array(list) if !list.is_empty() => list
                .iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            _ => Err(wrong()),
        }
    }

    fn selection(
        &self,
        plain: &'static str,
        inverted: &'static str,
        may_lack: bool,
    ) -> Result<Selection, PolicyError> {
        let (element, value, inverts) =
            match (self.elements.get(plain), self.elements.get(inverted)) {
                (Some(value), None) => (plain, value, false),
                (None, Some(value)) => (inverted, value, true),
                (None, None) if may_lack => return Ok(Selection::NOTHING),
                (None, None) => return Err(self.missing(plain)),
                (Some(_), Some(_)) => return Err(self.misplaced(inverted)),
            };
        let is_action = plain == "Action";
        let mut patterns = Vec::new();
        for text in self.strings(element, value)? {
            if is_action && !is_action_pattern(&text) {
                return Err(self.wrong(element, "\"*\" or \"service:Operation\""));
            }
            if !is_action && text != "*" && !text.starts_with("arn:") && !text.starts_with("${") {
                return Err(self.wrong(element, "\"*\" or an ARN"));
            }
            let syntax = Syntax {
                wildcards: true,
                variables: self.variables && !is_action,
            };
            patterns.push(Pattern::parse(&text, syntax).map_err(|source| {
                PolicyError::Pattern {
                    place: self.place.clone(),
                    source,
                }
            })?);
        }
        Ok(Selection {
            patterns,
            inverted: inverts,
        })
    }

    fn conditions(&self, kind: Kind) -> Result<Vec<Condition>, PolicyError> {
        let operators = match self.elements.get("Condition") {
            None => return Ok(Vec::new()),
            Some(Value::Object(operators)) => operators,
            Some(_) => return Err(self.wrong("Condition", "an object")),
        };
        let mut conditions = Vec::new();
        for (operator, keys) in operators {
            let Value::Object(keys) = keys else {
                return Err(self.wrong("Condition", "an object of objects"));
            };
            for (key, value) in keys {
                let values = self.values(value)?;
                let condition = Condition::parse(operator, key, &values, self.variables)
                    .and_then(|condition| match kind {
                        Kind::Key => condition.check_for_key_policy().map(|()| condition),
                        Kind::Identity => Ok(condition),
                    })
                    .map_err(|source| PolicyError::Condition {
                        place: self.place.clone(),
                        source,
                    })?;
                conditions.push(condition);
            }
        }
        Ok(conditions)
    }

    /// Condition values may be written without quotation marks where they are numbers or truth
    /// values.
    fn values(&self, value: &Value) -> Result<Vec<String>, PolicyError> {
        let one = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(truth) => Ok(truth.to_string()),
            _ => Err(self.wrong("Condition", "made of strings, numbers and truth values")),
        };
        match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => Ok(vec![one(single)?]),
        }
    }
}

/// AWS KMS: printable Latin-1, tab, line feed and carriage return.
fn is_policy_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{a0}'..='\u{ff}')
}

fn is_action_pattern(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-*?".contains(c);
    text == "*"
        || text.split_once(':').is_some_and(|(service, name)| {
            !service.is_empty()
                && !name.is_empty()
                && service.chars().all(plain)
                && name.chars().all(plain)
        })
}
