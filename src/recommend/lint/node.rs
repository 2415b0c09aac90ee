//! A part of a document, with its place in the file.

use serde_json::Value;

/// Where something stands in a file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub content: Content,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Fields, in their order.
    Map(Vec<(Key, Node)>),
    /// Items.
    List(Vec<Node>),
    /// Null, a truth value, a number or a text.
    Scalar(Value),
}

/// The name of a field and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The name.
    pub name: String,
    /// Where it begins.
    pub place: Place,
}

impl Node {
    /// The field of this name, if this is a map that has it and it is not null.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let (_, node) = self.fields().iter().find(|(key, _)| key.name == name)?;
        (node.content != Content::Scalar(Value::Null)).then_some(node)
    }

    /// The field at a path like `spec.scaleTargetRef.name`.
    pub fn at(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, name| node.get(name))
    }

    /// The fields, none where this is no map.
    pub fn fields(&self) -> &[(Key, Node)] {
        match &self.content {
            Content::Map(fields) => fields,
            Content::List(_) | Content::Scalar(_) => &[],
        }
    }

    /// The items, none where this is no list.
    pub fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            Content::Map(_) | Content::Scalar(_) => &[],
        }
    }

    /// A text as it is, a number or a truth value as it would be written; `None` for all else.
    pub fn text(&self) -> Option<String> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text.clone()),
            Content::Scalar(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            _ => None,
        }
    }

    /// A whole number.
    pub fn integer(&self) -> Option<i64> {
        match &self.content {
            Content::Scalar(value) => value.as_i64(),
            Content::Map(_) | Content::List(_) => None,
        }
    }

    /// The value without places.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Map(fields) => {
                fields.iter().map(|(key, node)| (key.name.clone(), node.value())).collect()
            }
            Content::List(items) => items.iter().map(Node::value).collect(),
            Content::Scalar(value) => value.clone(),
        }
    }
}
