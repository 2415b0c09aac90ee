//! Managed fields: who owns which field of an object, as the API server keeps it.
//!
//! Lists are owned as a whole, which is how an HPA's metrics and policies are declared.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The keys down to a field.
pub type Path = Vec<String>;
type Fields = BTreeSet<Path>;

/// A field that an apply would take from someone else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The other one, as the server's messages name it.
    pub owner: String,
    pub field: String,
}

/// Who writes, how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub api_version: &'a str,
    pub subresource: Option<&'a str>,
    pub time: &'a str,
}

/// The fields of an object that can be owned.
fn owned(object: &Value) -> Fields {
    let mut found = Fields::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for part in ["annotations", "labels", "finalizers", "ownerReferences"] {
                    if !value[part].is_null() {
                        leaves(&value[part], vec!["metadata".to_owned(), part.to_owned()], &mut found);
                    }
                }
            }
            key => leaves(value, vec![key.to_owned()], &mut found),
        }
    }
    found
}

fn leaves(value: &Value, at: Path, found: &mut Fields) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(value, [at.clone(), vec![key.clone()]].concat(), found);
            }
        }
        _ => {
            found.insert(at);
        }
    }
}

fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let [first, rest @ ..] = path else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let map = object.as_object_mut().expect("an object");
    set(map.entry(first.clone()).or_insert(Value::Null), rest, value);
}

/// Takes a field away, and the maps that become empty by it.
fn remove(object: &mut Value, path: &[String]) {
    let Some(map) = object.as_object_mut() else { return };
    match path {
        [last] => {
            map.shift_remove(last);
        }
        [first, rest @ ..] => {
            if let Some(inner) = map.get_mut(first) {
                remove(inner, rest);
                if inner.as_object().is_some_and(Map::is_empty) {
                    map.shift_remove(first);
                }
            }
        }
        [] => {}
    }
}

fn to_fields_v1(fields: &Fields) -> Value {
    let mut out = json!({});
    for path in fields {
        let path: Path = path.iter().map(|key| format!("f:{key}")).collect();
        set(&mut out, &path, json!({}));
    }
    out
}

fn from_fields_v1(value: &Value) -> Fields {
    fn walk(value: &Value, at: &Path, found: &mut Fields) {
        let inner: Vec<(&String, &Value)> = value.as_object().into_iter().flatten().collect();
        let named: Vec<_> = inner.iter().filter(|(key, _)| key.starts_with("f:")).collect();
        if named.is_empty() && !at.is_empty() {
            found.insert(at.clone());
        }
        for (key, value) in named {
            walk(value, &[at.clone(), vec![key[2..].to_owned()]].concat(), found);
        }
    }
    let mut found = Fields::new();
    walk(value, &Vec::new(), &mut found);
    found
}

/// One entry of `metadata.managedFields`.
#[derive(Debug, Clone)]
struct Entry {
    head: Value,
    fields: Fields,
}

impl Entry {
    fn new(writer: Writer<'_>, operation: &str, fields: Fields) -> Entry {
        let mut head = json!({
            "manager": writer.manager, "operation": operation, "apiVersion": writer.api_version,
            "time": writer.time, "fieldsType": "FieldsV1",
        });
        if let Some(subresource) = writer.subresource {
            head["subresource"] = subresource.into();
        }
        Entry { head, fields }
    }

    fn is(&self, writer: Writer<'_>, operation: &str) -> bool {
        self.head["manager"] == writer.manager
            && self.head["operation"] == operation
            && self.head["subresource"].as_str() == writer.subresource
    }

    fn shown(&self) -> String {
        let name = self.head["manager"].as_str().unwrap_or_default();
        let subresource = match self.head["subresource"].as_str() {
            Some(subresource) => format!(" with subresource {subresource:?}"),
            None => String::new(),
        };
        let version = self.head["apiVersion"].as_str().unwrap_or_default();
        let using =
            if self.head["operation"] == "Update" { format!(" using {version}") } else { String::new() };
        format!("{name:?}{subresource}{using}")
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entry = |mut head: Value| {
        let fields = from_fields_v1(&head["fieldsV1"]);
        head.as_object_mut().expect("an object").shift_remove("fieldsV1");
        Entry { head, fields }
    };
    list.into_iter().map(entry).collect()
}

fn put_entries(object: &mut Value, entries: Vec<Entry>) {
    let shown = |entry: Entry| {
        let mut head = entry.head;
        let subresource = head.as_object_mut().expect("an object").shift_remove("subresource");
        head["fieldsV1"] = to_fields_v1(&entry.fields);
        if let Some(subresource) = subresource {
            head["subresource"] = subresource;
        }
        head
    };
    let list: Vec<Value> = entries.into_iter().filter(|entry| !entry.fields.is_empty()).map(shown).collect();
    object["metadata"]["managedFields"] = list.into();
}

/// Writes down who changed what from `live` to `new`.
pub fn update(live: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let empty = json!({});
    let live = live.unwrap_or(&empty);
    let (before, after) = (owned(live), owned(new));
    let changed: Fields = after.iter().filter(|path| get(live, path) != get(new, path)).cloned().collect();
    let mut all = entries(new);
    if all.is_empty() {
        all = entries(live);
    }
    for entry in &mut all {
        entry.fields.retain(|path| after.contains(path) || !before.contains(path));
        if !entry.is(writer, "Update") {
            entry.fields.retain(|path| !changed.contains(path));
        }
    }
    if !changed.is_empty() {
        match all.iter_mut().find(|entry| entry.is(writer, "Update")) {
            Some(mine) => {
                mine.fields.extend(changed);
                mine.head["time"] = writer.time.into();
            }
            None => all.push(Entry::new(writer, "Update", changed)),
        }
    }
    put_entries(new, all);
}

/// Server-side apply.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mine = owned(applied);
    let mut object = live.cloned().unwrap_or_else(|| {
        let metadata = &applied["metadata"];
        json!({
            "kind": applied["kind"], "apiVersion": applied["apiVersion"],
            "metadata": { "name": metadata["name"], "namespace": metadata["namespace"] },
        })
    });
    let mut all = entries(&object);
    let differs = |path: &Path| get(applied, path) != get(&object, path);
    let mut conflicts = BTreeMap::new();
    for entry in all.iter().filter(|entry| !entry.is(writer, "Apply")) {
        for path in mine.iter().filter(|path| touches(&entry.fields, path) && differs(path)) {
            conflicts.insert((entry.shown(), format!(".{}", path.join("."))), path.clone());
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts.into_keys().map(|(owner, field)| Conflict { owner, field }).collect());
    }
    for entry in all.iter_mut().filter(|entry| !entry.is(writer, "Apply")) {
        entry.fields.retain(|path| !conflicts.values().any(|taken| touch(path, taken)));
    }
    let old = all.iter().find(|entry| entry.is(writer, "Apply")).map(|entry| entry.fields.clone());
    let others: Fields =
        all.iter().filter(|e| !e.is(writer, "Apply")).flat_map(|e| e.fields.iter().cloned()).collect();
    for path in old.iter().flatten().filter(|path| !touches(&mine, path) && !touches(&others, path)) {
        remove(&mut object, path);
    }
    for path in &mine {
        set(&mut object, path, get(applied, path).cloned().unwrap_or_default());
    }
    match all.iter_mut().find(|entry| entry.is(writer, "Apply")) {
        Some(entry) if entry.fields == mine => {}
        Some(entry) => {
            entry.fields = mine;
            entry.head["time"] = writer.time.into();
        }
        None => all.push(Entry::new(writer, "Apply", mine)),
    }
    put_entries(&mut object, all);
    Ok(object)
}

/// Whether one is the other or lies in it.
fn touch(a: &[String], b: &[String]) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn touches(fields: &Fields, path: &[String]) -> bool {
    fields.iter().any(|field| touch(field, path))
}

/// RFC 7386.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().expect("an object");
    for (key, value) in patch {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            merge_patch(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
