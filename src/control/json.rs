//! JSON as it was written: the order of members and repeated keys are kept, so that both can be judged.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// One JSON value. Unlike `serde_json::Value` it remembers a key that was given twice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// A number that is a whole one and not negative.
    Whole(u64),
    /// Any other number.
    Number(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// What it is, with its article, for a sentence about what was expected.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Whole(_) | Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Parses `text`.
///
/// # Errors
/// One sentence with line and column.
pub(super) fn parse(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|e| {
        let whole = e.to_string();
        let what = whole
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        format!("line {}, column {}: {what}", e.line(), e.column())
    })
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Whole(value))
    }
    #[allow(
        clippy::cast_precision_loss,
        reason = "only shown to be refused: no setting is negative"
    )]
    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(u64::try_from(value).map_or(Json::Number(value as f64), Json::Whole))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_is_kept() {
        let json = parse(r#"{"a": 1, "a": [true, null, -1, "x"]}"#).expect("valid");
        let Json::Object(members) = json else {
            panic!("an object")
        };
        assert_eq!(members[0], ("a".to_owned(), Json::Whole(1)));
        let last = Json::Array(vec![
            Json::Bool(true),
            Json::Null,
            Json::Number(-1.0),
            Json::Text("x".into()),
        ]);
        assert_eq!(members[1], ("a".to_owned(), last));
    }

    #[test]
    fn a_syntax_error_has_line_and_column() {
        let error = parse("{\n  \"a\": 1,\n}").expect_err("a trailing comma");
        assert!(error.starts_with("line 3, column 1: "), "{error}");
        assert!(!error.contains(" at line "), "{error}");
    }
}
