//! What the server answers: objects, and the errors of a real API server as they were recorded.

use super::asked::Asked;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// One whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The path of a recorded answer.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubernetes").join(format!("{name}.json"))
}

/// A recorded exchange: its `request` and its `response`.
pub fn recording(name: &str) -> Value {
    let path = fixture(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Answer {
        // As the real one ends its lines.
        let body = format!("{body}\n").into_bytes();
        Answer { status, content_type: "application/json".to_owned(), body }
    }

    pub fn ok(body: &Value) -> Answer {
        Answer::json(200, body)
    }

    pub fn text(status: u16, body: &str) -> Answer {
        let content_type = "text/plain; charset=utf-8".to_owned();
        Answer { status, content_type, body: body.as_bytes().to_vec() }
    }

    /// What the real server answered, by the name of the file.
    pub fn recorded(name: &str) -> Answer {
        let response = recording(name)["response"].take();
        let status = response["status"].as_u64().expect("a status") as u16;
        match &response["body"] {
            Value::String(text) => Answer::text(status, text),
            body => Answer::json(status, body),
        }
    }

    /// A `Status` of failure. `details` may be null.
    pub fn status(code: u16, reason: &str, message: &str, details: Value) -> Answer {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details, "code": code,
        });
        if body["details"].is_null() {
            body.as_object_mut().expect("an object").shift_remove("details");
        }
        Answer::json(code, &body)
    }

    pub fn not_found(asked: &Asked, name: &str) -> Answer {
        let message = format!("{} {name:?} not found", asked.qualified());
        Answer::status(404, "NotFound", &message, details(asked, Some(name)))
    }

    pub fn no_namespace(name: &str) -> Answer {
        let message = format!("namespaces {name:?} not found");
        Answer::status(404, "NotFound", &message, json!({ "name": name, "kind": "namespaces" }))
    }

    pub fn exists(asked: &Asked, name: &str) -> Answer {
        let message = format!("{} {name:?} already exists", asked.qualified());
        Answer::status(409, "AlreadyExists", &message, details(asked, Some(name)))
    }

    pub fn stale(asked: &Asked, name: &str) -> Answer {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please apply your \
             changes to the latest version and try again",
            asked.qualified()
        );
        Answer::status(409, "Conflict", &message, details(asked, Some(name)))
    }

    pub fn forbidden(asked: &Asked, user: &str) -> Answer {
        let object = asked.name.as_ref().map_or(String::new(), |name| format!(" {name:?}"));
        let place = match &asked.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{}{object} is forbidden: User {user:?} cannot {} resource {:?} in API group {:?} {place}",
            asked.qualified(),
            asked.verb,
            asked.full_resource(),
            asked.group
        );
        Answer::status(403, "Forbidden", &message, details(asked, asked.name.as_deref()))
    }

    pub fn bad_request(message: &str) -> Answer {
        Answer::status(400, "BadRequest", message, Value::Null)
    }
}

fn details(asked: &Asked, name: Option<&str>) -> Value {
    let fields = [("name", name), ("group", Some(&*asked.group)), ("kind", Some(&*asked.resource))];
    let fields = fields.into_iter().filter_map(|(key, value)| Some((key, value.filter(|v| !v.is_empty())?)));
    fields.map(|(key, value)| (key.to_owned(), value.into())).collect::<serde_json::Map<_, _>>().into()
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        Response::builder()
            .status(self.status)
            .header("content-type", self.content_type)
            .body(Body::from(self.body))
            .expect("a sound answer")
    }
}
