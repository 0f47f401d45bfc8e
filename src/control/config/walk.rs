//! Walking a JSON tree and noting every mistake with its place.

use super::Mistake;
use crate::control::json::Json;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) notes: Vec<String>,
}

/// The members of one object, each key once.
#[derive(Debug)]
pub(super) struct Members<'a> {
    place: String,
    members: Vec<(&'a str, &'a Json)>,
}

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<(String, &'a Json)> {
        let (_, json) = self.members.iter().find(|(key, _)| *key == name)?;
        Some((self.at(name), json))
    }

    /// The place of a member.
    pub(super) fn at(&self, name: &str) -> String {
        join(&self.place, name)
    }

    /// The place of the object itself.
    pub(super) fn place(&self) -> &str {
        if self.place.is_empty() {
            "the file"
        } else {
            &self.place
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, String, &'a Json)> + '_ {
        let quoted = |key: &str| join(&self.place, &format!("\"{key}\""));
        self.members
            .iter()
            .map(move |&(key, json)| (key, quoted(key), json))
    }
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    }
}

impl Walk {
    /// Notes a mistake.
    pub(super) fn mistake(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.mistakes.push(Mistake {
            place: place.into(),
            what: what.into(),
        });
    }

    fn expected(&mut self, place: String, wanted: &str, got: &Json) {
        self.mistake(place, format!("expected {wanted}, found {}", got.kind()));
    }

    /// The members of an object whose keys are data (names, numbers); a repeated key is a mistake.
    pub(super) fn map<'a>(&mut self, place: &str, json: &'a Json) -> Option<Members<'a>> {
        let Json::Object(all) = json else {
            self.expected(
                if place.is_empty() {
                    "the file".into()
                } else {
                    place.into()
                },
                "an object",
                json,
            );
            return None;
        };
        let mut members: Vec<(&str, &Json)> = Vec::with_capacity(all.len());
        for (key, value) in all {
            if members.iter().any(|(seen, _)| seen == key) {
                self.mistake(join(place, &format!("\"{key}\"")), "is given twice");
            } else {
                members.push((key, value));
            }
        }
        Some(Members {
            place: place.to_owned(),
            members,
        })
    }

    /// The members of an object whose keys are fixed; an unknown one is a mistake that names the nearest.
    pub(super) fn object<'a>(
        &mut self,
        place: &str,
        json: &'a Json,
        known: &[&str],
    ) -> Option<Members<'a>> {
        let members = self.map(place, json)?;
        for (key, _) in members
            .members
            .iter()
            .filter(|(key, _)| !known.contains(key))
        {
            let hint = nearest(key, known).map_or_else(
                || format!("; known here: {}", known.join(", ")),
                |name| format!("; did you mean \"{name}\"?"),
            );
            self.mistake(members.at(key), format!("unknown field{hint}"));
        }
        Some(members)
    }

    /// A member that is an array: its elements, with their places.
    pub(super) fn array<'a>(&mut self, of: &Members<'a>, name: &str) -> Vec<(String, &'a Json)> {
        match of.get(name) {
            None => Vec::new(),
            Some((place, json)) => self.elements(&place, json),
        }
    }

    /// The elements of an array, with their places.
    pub(super) fn elements<'a>(&mut self, place: &str, json: &'a Json) -> Vec<(String, &'a Json)> {
        let Json::Array(items) = json else {
            self.expected(place.to_owned(), "an array", json);
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(i, item)| (format!("{place}[{i}]"), item))
            .collect()
    }

    /// A member that is a whole number in `min..=max`.
    pub(super) fn whole(
        &mut self,
        of: &Members<'_>,
        name: &str,
        min: u64,
        max: u64,
    ) -> Option<u64> {
        let (place, json) = of.get(name)?;
        self.number(place, json, min, max)
    }

    /// A whole number in `min..=max`.
    pub(super) fn number(&mut self, place: String, json: &Json, min: u64, max: u64) -> Option<u64> {
        match json {
            Json::Whole(n) if (min..=max).contains(n) => Some(*n),
            Json::Whole(_) | Json::Number(_) => {
                self.mistake(place, format!("is not a whole number from {min} to {max}"));
                None
            }
            other => {
                self.expected(place, "a number", other);
                None
            }
        }
    }

    /// A member that is true or false.
    pub(super) fn flag(&mut self, of: &Members<'_>, name: &str) -> Option<bool> {
        match of.get(name)? {
            (_, Json::Bool(flag)) => Some(*flag),
            (place, other) => {
                self.expected(place, "true or false", other);
                None
            }
        }
    }

    /// A member that is a string.
    pub(super) fn text<'a>(&mut self, of: &Members<'a>, name: &str) -> Option<&'a str> {
        match of.get(name)? {
            (_, Json::Text(text)) => Some(text),
            (place, other) => {
                self.expected(place, "a string", other);
                None
            }
        }
    }

    /// A member that is a string which `parse` must understand.
    pub(super) fn parsed<T>(
        &mut self,
        of: &Members<'_>,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(of, name)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.mistake(of.at(name), what);
                None
            }
        }
    }

    /// Any member, as it was written.
    pub(super) fn any<'a>(&self, of: &Members<'a>, name: &str) -> Option<(String, &'a Json)> {
        of.get(name)
    }
}

/// The known name that `word` most likely meant.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let score = |name: &str| strsim::jaro_winkler(&lower, &name.to_lowercase());
    let best = known.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.75).then_some(*best)
}
