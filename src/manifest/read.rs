//! YAML, with many documents in one text, to values that know their lines.

use crate::recommend::lint::{Content, Key, Node, Place};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// A text that is no YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not YAML: {message}")]
pub struct UnreadableYaml {
    /// Where, if the parser knows.
    pub place: Place,
    /// What is wrong, with the lines around it.
    pub message: String,
}

/// The objects in a text: one per document, and those in lists as `kubectl get -o yaml` prints them.
/// Documents that hold nothing are left out.
pub fn read_objects(text: &str) -> Result<Vec<Node>, UnreadableYaml> {
    let documents = serde_saphyr::from_multiple::<Read>(text).map_err(|error| UnreadableYaml {
        place: error.location().map(place).unwrap_or_default(),
        message: error.without_snippet().to_string(),
    })?;
    let mut objects = Vec::new();
    for Read(document) in documents {
        let kind = document.get("kind").and_then(Node::text).unwrap_or_default();
        match document.get("items") {
            Some(items) if kind.ends_with("List") => objects.extend(items.items().iter().cloned()),
            _ if document.content == Content::Scalar(Value::Null) => {}
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

/// A node as it is read.
struct Read(Node);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Inner>::deserialize(deserializer)?;
        Ok(Read(Node { place: place(spanned.referenced), content: spanned.value.0 }))
    }
}

/// The name of a field as it is read. Numbers and truth values are names too.
struct Name(Key);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Name(Key { name: spanned.value, place: place(spanned.referenced) }))
    }
}

struct Inner(Content);

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InnerVisitor).map(Inner)
    }
}

struct InnerVisitor;

impl<'de> Visitor<'de> for InnerVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Content, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    /// What is no finite number has no form in JSON, and so becomes a text.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Content, E> {
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        Ok(Content::Scalar(number.unwrap_or_else(|| value.to_string().into())))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(Read(node)) = items.next_element()? {
            list.push(node);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some((Name(key), Read(node))) = fields.next_entry()? {
            map.push((key, node));
        }
        Ok(Content::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: A
spec:
  list:
  - name: x
    target: {averageValue: 4, other: '4'}
  none:
---
kind: BList
items:
- kind: B
  deep: 0.5
---
";

    #[test]
    fn every_value_and_every_name_knows_its_line_in_the_whole_text() {
        let objects = read_objects(TEXT).unwrap();
        let target = objects[0].at("spec.list").unwrap().items()[0].get("target").unwrap();
        let average = target.get("averageValue").unwrap();
        assert_eq!((average.place, average.integer()), (Place { line: 6, column: 28 }, Some(4)));
        assert_eq!(target.get("other").unwrap().integer(), None, "quoted");
        assert_eq!(objects[0].fields()[1].0.place, Place { line: 3, column: 1 });
        assert_eq!(objects[0].at("spec.none"), None);
        assert_eq!(objects.len(), 2, "the list's item, and nothing for the empty document");
        assert_eq!(objects[1].get("deep").unwrap().place.line, 12);
        assert_eq!(objects[1].value(), serde_json::json!({ "kind": "B", "deep": 0.5 }));
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line() {
        for (text, line) in [("a: 1\nb: [1\n", 2), ("a: 1\na: 2\n", 2), ("a: 1\n\tb: 2\n", 1)] {
            let error = read_objects(text).unwrap_err();
            assert!(error.place.line >= line, "{error:?}");
        }
    }
}
