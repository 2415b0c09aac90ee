//! What a request asks for, as the API server's authorizer sees it.

use std::collections::BTreeMap;

/// One request.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// As in a Role: get, list, watch, create, update, patch, delete.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// The plural; empty for paths like `/version`.
    pub resource: String,
    pub subresource: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// What follows the subresource: the path behind a proxy.
    pub tail: String,
    /// The path as it was sent, without its query.
    pub path: String,
    pub query: BTreeMap<String, String>,
}

impl Asked {
    pub fn new(method: &str, path: &str, query: &str) -> Asked {
        let query: BTreeMap<String, String> = reqwest::Url::parse(&format!("http://x/?{query}"))
            .map(|url| url.query_pairs().into_owned().collect())
            .unwrap_or_default();
        let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let mut asked = Asked { path: path.to_owned(), query, ..Asked::default() };
        let rest = match segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["api", version, rest @ ..] if !version.is_empty() => {
                asked.version = String::from(*version);
                rest.to_vec()
            }
            ["apis", group, version, rest @ ..] => {
                (asked.group, asked.version) = ((*group).to_owned(), (*version).to_owned());
                rest.to_vec()
            }
            _ => Vec::new(),
        };
        let rest = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                asked.namespace = Some((*namespace).to_owned());
                rest.to_vec()
            }
            rest => rest.to_vec(),
        };
        let some = |index: usize| rest.get(index).filter(|text| !text.is_empty()).map(|t| (*t).to_owned());
        asked.resource = some(0).unwrap_or_default();
        asked.name = some(1);
        asked.subresource = some(2);
        asked.tail = rest.get(3..).unwrap_or_default().join("/");
        asked.verb = String::from(asked.verb_of(method));
        asked
    }

    fn verb_of(&self, method: &str) -> &'static str {
        match method {
            "GET" if self.is_watch() => "watch",
            "GET" if self.name.is_none() && !self.resource.is_empty() => "list",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if self.name.is_none() => "deletecollection",
            "DELETE" => "delete",
            _ => "get",
        }
    }

    fn is_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|watch| watch == "true" || watch == "1")
    }

    pub fn dry_run(&self) -> bool {
        self.query.contains_key("dryRun")
    }

    /// Who changes fields.
    pub fn manager(&self) -> &str {
        self.query.get("fieldManager").map_or("unknown", String::as_str)
    }

    /// `horizontalpodautoscalers.autoscaling`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// `deployments/scale`, as a Role names it.
    pub fn full_resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.clone(),
        }
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Without percent signs.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        if let Some(byte) = code.filter(|_| bytes[at] == b'%') {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
