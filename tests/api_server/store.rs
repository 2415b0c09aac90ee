//! The objects, their versions, and everything that ever happened to them.

use super::answer::Answer;
use super::asked::Asked;
use super::fields::{self, Writer};
use super::{admission, now};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where an object lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub group: String,
    pub resource: String,
    pub namespace: Option<String>,
    pub name: String,
}

/// Something that happened to an object.
#[derive(Debug, Clone)]
pub struct Change {
    pub version: u64,
    /// ADDED, MODIFIED or DELETED.
    pub kind: &'static str,
    pub key: Key,
    pub object: Value,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Store {
    pub version: u64,
    pub objects: BTreeMap<Key, Value>,
    pub history: Vec<Change>,
    /// The minor version of this Kubernetes 1.
    pub minor: u32,
    pub uids: u64,
}

type Answered<T> = Result<T, Answer>;

impl Store {
    /// Puts an object in as it is, like a controller that nobody asks.
    pub fn put(&mut self, key: Key, mut object: Value) -> Value {
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            self.uids += 1;
            metadata["uid"] = format!("00000000-0000-4000-8000-{:012}", self.uids).into();
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = now().into();
        }
        for map in ["annotations", "labels"] {
            // As encoded from typed metadata: what is empty is left out.
            if metadata[map].as_object().is_some_and(serde_json::Map::is_empty) || metadata[map].is_null() {
                metadata.as_object_mut().expect("metadata").shift_remove(map);
            }
        }
        let old = self.objects.get(&key);
        if old.is_some_and(|old| same(old, &object)) {
            return old.cloned().unwrap_or_default();
        }
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        if old.is_some_and(|old| old["spec"] != object["spec"]) && object["metadata"]["generation"].is_u64() {
            let next = object["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
            object["metadata"]["generation"] = next.into();
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push(Change { version: self.version, kind, key: key.clone(), object: object.clone() });
        self.objects.insert(key, object.clone());
        object
    }

    pub fn take(&mut self, key: &Key) -> Option<Value> {
        let mut object = self.objects.remove(key)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let (version, kind) = (self.version, "DELETED");
        self.history.push(Change { version, kind, key: key.clone(), object: object.clone() });
        Some(object)
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        self.objects.keys().any(|key| key.resource == "namespaces" && key.name == name)
    }

    fn key(asked: &Asked, body: Option<&Value>) -> Answered<Key> {
        let named = body.and_then(|body| body["metadata"]["name"].as_str()).map(str::to_owned);
        let name = asked.name.clone().or(named).ok_or_else(|| Answer::bad_request("name is required"))?;
        let (group, resource) = (asked.group.clone(), asked.resource.clone());
        Ok(Key { group, resource, namespace: asked.namespace.clone(), name })
    }

    pub fn get(&self, asked: &Asked) -> Answered<Value> {
        let key = Store::key(asked, None)?;
        self.objects.get(&key).cloned().ok_or_else(|| Answer::not_found(asked, &key.name))
    }

    pub fn list(&self, asked: &Asked) -> Answered<Value> {
        let wanted = Wanted::new(asked)?;
        let items = self.objects.iter().filter(|(key, object)| wanted.takes(key, object));
        let kind = kind_of_list(&asked.resource);
        let items: Vec<Value> = items
            .map(|(_, object)| {
                let mut object = object.clone();
                // As the real one: items of a typed list carry neither.
                if let Some(map) = object.as_object_mut().filter(|_| !asked.group.contains('.')) {
                    map.shift_remove("kind");
                    map.shift_remove("apiVersion");
                }
                object
            })
            .collect();
        Ok(json!({
            "kind": kind, "apiVersion": asked.api_version(),
            "metadata": { "resourceVersion": self.version.to_string() }, "items": items,
        }))
    }

    pub fn create(&mut self, asked: &Asked, mut body: Value) -> Answered<Value> {
        let key = Store::key(asked, Some(&body))?;
        Store::check(asked, &body)?;
        if let Some(namespace) = &asked.namespace {
            if !self.has_namespace(namespace) {
                return Err(Answer::no_namespace(namespace));
            }
            body["metadata"]["namespace"] = namespace.clone().into();
        }
        if self.objects.contains_key(&key) {
            return Err(Answer::exists(asked, &key.name));
        }
        self.admit(asked, &mut body);
        let time = now();
        fields::update(None, &mut body, writer(asked, &time));
        Ok(self.write(asked, key, body))
    }

    pub fn replace(&mut self, asked: &Asked, mut body: Value) -> Answered<Value> {
        let key = Store::key(asked, Some(&body))?;
        let live = self.get(asked)?;
        stale(asked, &live, &body)?;
        Store::check(asked, &body)?;
        self.admit(asked, &mut body);
        if asked.subresource.as_deref() == Some("status") {
            let status = body["status"].take();
            body = live.clone();
            body["status"] = status;
        } else if !live["status"].is_null() {
            body["status"] = live["status"].clone();
        }
        for field in ["uid", "creationTimestamp", "generation"] {
            if !live["metadata"][field].is_null() {
                body["metadata"][field] = live["metadata"][field].clone();
            }
        }
        let time = now();
        fields::update(Some(&live), &mut body, writer(asked, &time));
        Ok(self.write(asked, key, body))
    }

    pub fn merge(&mut self, asked: &Asked, patch: &Value) -> Answered<Value> {
        let live = self.get(asked)?;
        stale(asked, &live, patch)?;
        let mut body = live.clone();
        fields::merge_patch(&mut body, patch);
        body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        self.replace(asked, body)
    }

    /// Server-side apply, with whether the object is new.
    pub fn apply(&mut self, asked: &Asked, applied: &Value) -> Answered<(Value, bool)> {
        let key = Store::key(asked, Some(applied))?;
        if !asked.query.contains_key("fieldManager") {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
            return Err(Answer::status(422, "Invalid", message, Value::Null));
        }
        if let Some(namespace) = asked.namespace.as_ref().filter(|name| !self.has_namespace(name)) {
            return Err(Answer::no_namespace(namespace));
        }
        Store::check(asked, applied)?;
        let live = self.objects.get(&key).cloned();
        let mut canonical = applied.clone();
        if asked.resource == "horizontalpodautoscalers" {
            // What is compared is in canonical form, and what nobody applied is owned by nobody.
            let mut admitted = applied.clone();
            admission::admit(&mut admitted, self.minor);
            keep_only(&mut admitted, applied);
            canonical = admitted;
        }
        let force = asked.query.get("force").is_some_and(|force| force == "true");
        let time = now();
        let mut object = fields::apply(live.as_ref(), &canonical, writer(asked, &time), force)
            .map_err(|conflicts| conflict_answer(&conflicts))?;
        self.admit(asked, &mut object);
        if live.is_none() && asked.resource == "horizontalpodautoscalers" {
            object["status"] = json!({ "desiredReplicas": 0, "currentMetrics": null });
        }
        Ok((self.write(asked, key, object), live.is_none()))
    }

    pub fn delete(&mut self, asked: &Asked, options: &Value) -> Answered<Value> {
        let key = Store::key(asked, None)?;
        let live = self.get(asked)?;
        let wanted = &options["preconditions"];
        for field in ["uid", "resourceVersion"] {
            if !wanted[field].is_null() && wanted[field] != live["metadata"][field] {
                return Err(Answer::stale(asked, &key.name));
            }
        }
        if !asked.dry_run() {
            self.take(&key);
        }
        Ok(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": { "name": key.name, "group": key.group, "kind": key.resource, "uid": live["metadata"]["uid"] },
        }))
    }

    fn check(asked: &Asked, body: &Value) -> Answered<()> {
        let namespace = &body["metadata"]["namespace"];
        if !namespace.is_null() && namespace.as_str() != asked.namespace.as_deref() {
            return Err(Answer::recorded("bad-ns-mismatch"));
        }
        if asked.resource == "horizontalpodautoscalers" { admission::check(body) } else { Ok(()) }
    }

    fn admit(&self, asked: &Asked, body: &mut Value) {
        if asked.resource == "horizontalpodautoscalers" {
            admission::admit(body, self.minor);
            if body["status"].is_null() {
                body["status"] = json!({ "desiredReplicas": 0, "currentMetrics": null });
            }
        }
    }

    /// Writes, unless this is a dry run.
    fn write(&mut self, asked: &Asked, key: Key, mut object: Value) -> Value {
        if !asked.dry_run() {
            return self.put(key, object);
        }
        if self.minor < 27
            && let Some(former) = self.objects.get(&key).and_then(|live| live["spec"]["metrics"].as_array())
            && let Some(metrics) = object["spec"]["metrics"].as_array_mut()
        {
            // kubernetes/kubernetes issue 118293, as seen of 1.20.2.
            metrics.extend(former.first().cloned());
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = "00000000-0000-4000-8000-dddddddddddd".into();
            object["metadata"]["creationTimestamp"] = now().into();
        }
        object
    }
}

/// Drops what an object has beside `shape`.
fn keep_only(object: &mut Value, shape: &Value) {
    if let (Some(map), Some(shape)) = (object.as_object_mut(), shape.as_object()) {
        map.retain(|key, _| shape.contains_key(key));
        for (key, value) in map {
            keep_only(value, &shape[key]);
        }
    }
}

fn writer<'a>(asked: &'a Asked, time: &'a str) -> Writer<'a> {
    // The version is that of the request.
    let api_version: &'static str = Box::leak(asked.api_version().into_boxed_str());
    Writer { manager: asked.manager(), api_version, subresource: asked.subresource.as_deref(), time }
}

fn stale(asked: &Asked, live: &Value, body: &Value) -> Answered<()> {
    let sent = &body["metadata"]["resourceVersion"];
    let name = live["metadata"]["name"].as_str().unwrap_or_default();
    if sent.is_null() || sent == &live["metadata"]["resourceVersion"] {
        return Ok(());
    }
    Err(Answer::stale(asked, name))
}

fn conflict_answer(conflicts: &[fields::Conflict]) -> Answer {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|conflict| {
            let message = format!("conflict with {}", conflict.owner);
            json!({ "reason": "FieldManagerConflict", "message": message, "field": conflict.field })
        })
        .collect();
    let message = if let [only] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {}: {}", only.owner, only.field)
    } else {
        let mut by_owner: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for conflict in conflicts {
            by_owner.entry(&conflict.owner).or_default().push(&conflict.field);
        }
        let lists = by_owner.iter().map(|(owner, fields)| {
            let fields = fields.join("\n- ");
            format!("conflicts with {owner}:\n- {fields}")
        });
        let lists = lists.collect::<Vec<_>>().join("\n");
        format!("Apply failed with {} conflicts: {lists}", conflicts.len())
    };
    Answer::status(409, "Conflict", &message, json!({ "causes": causes }))
}

/// Whether nothing changed but times of managed fields.
fn same(old: &Value, new: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry["time"] = Value::Null;
        }
        object["metadata"]["resourceVersion"] = Value::Null;
        object
    };
    plain(old) == plain(new)
}

fn kind_of_list(resource: &str) -> String {
    let kind = match resource {
        "horizontalpodautoscalers" => "HorizontalPodAutoscaler",
        "verticalpodautoscalers" => "VerticalPodAutoscaler",
        "scaledobjects" => "ScaledObject",
        "leaderworkersets" => "LeaderWorkerSet",
        "statefulsets" => "StatefulSet",
        "deployments" => "Deployment",
        "podmonitorings" => "PodMonitoring",
        "configmaps" => "ConfigMap",
        "replicasets" => "ReplicaSet",
        "namespaces" => "Namespace",
        "services" => "Service",
        "events" => "Event",
        "leases" => "Lease",
        "nodes" => "Node",
        "pods" => "Pod",
        other => other,
    };
    format!("{kind}List")
}

/// What a list or a watch asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    group: String,
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    labels: Vec<(String, Test)>,
    fields: Vec<(String, Test)>,
}

/// A condition on a label.
#[derive(Debug, Clone)]
enum Test {
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    There,
    NotThere,
}

impl Wanted {
    pub fn new(asked: &Asked) -> Answered<Wanted> {
        let text = |name: &str| asked.query.get(name).map_or("", String::as_str);
        Ok(Wanted {
            group: asked.group.clone(),
            resource: asked.resource.clone(),
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            labels: tests(text("labelSelector"))?,
            fields: tests(text("fieldSelector"))?,
        })
    }

    pub fn takes(&self, key: &Key, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let field = |path: &str| object.pointer(&format!("/{}", path.replace('.', "/")));
        key.group == self.group
            && key.resource == self.resource
            && (self.namespace.is_none() || key.namespace == self.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
            && self.labels.iter().all(|(label, test)| test.holds(labels.get(label)))
            && self.fields.iter().all(|(path, test)| test.holds(field(path)))
    }
}

impl Test {
    fn holds(&self, value: Option<&Value>) -> bool {
        let value = value.and_then(Value::as_str);
        match self {
            Test::Is(wanted) => value == Some(wanted),
            Test::IsNot(other) => value != Some(other),
            Test::In(any) => value.is_some_and(|value| any.iter().any(|one| one == value)),
            Test::NotIn(none) => !value.is_some_and(|value| none.iter().any(|one| one == value)),
            Test::There => value.is_some(),
            Test::NotThere => value.is_none(),
        }
    }
}

fn tests(selector: &str) -> Answered<Vec<(String, Test)>> {
    let mut parts: Vec<String> = Vec::new();
    let mut depth = 0;
    for letter in selector.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if parts.is_empty() {
            parts.push(String::new());
        }
        parts.last_mut().expect("a part").push(letter);
    }
    let one = |part: &String| {
        let part = part.trim();
        let pair = |at: &str| {
            part.split_once(at).map(|(label, value)| (label.trim().to_owned(), value.trim().to_owned()))
        };
        let any = |list: &str| {
            list.trim_matches(['(', ')']).split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>()
        };
        if let Some((label, list)) = pair(" notin ") {
            return Ok((label, Test::NotIn(any(&list))));
        }
        if let Some((label, list)) = pair(" in ") {
            return Ok((label, Test::In(any(&list))));
        }
        if let Some((label, value)) = pair("!=") {
            return Ok((label, Test::IsNot(value)));
        }
        if let Some((label, value)) = pair("==").or_else(|| pair("=")) {
            return Ok((label, Test::Is(value)));
        }
        if let Some((_, second)) = part.split_once(' ') {
            let message = format!(
                "unable to parse requirement: found '{second}', expected: in, notin, =, ==, !=, gt, lt"
            );
            return Err(Answer::bad_request(&message));
        }
        Ok(match part.strip_prefix('!') {
            Some(label) => (label.to_owned(), Test::NotThere),
            None => (part.to_owned(), Test::There),
        })
    };
    parts.iter().map(one).collect()
}
