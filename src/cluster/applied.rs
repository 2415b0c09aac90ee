//! What an apply changed and what was there before: the record that a rollback goes by.

use super::diff::without_noise;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a record says it is.
pub const FORMAT: &str = "calibrate/applied";
/// The version of its format.
pub const VERSION: u32 = 1;

/// One apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The calibrate that wrote it.
    pub tool_version: String,
    /// When, in UTC.
    pub time: String,
    /// The address of the API server.
    pub server: String,
    /// Namespace of the HPA.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The manifest's file in the run directory.
    pub manifest: String,
    /// The manifest.
    pub written: Value,
    /// The object before. `None`: there was none.
    pub before: Option<Value>,
    /// The object after, as it was read back. `None`: the apply did not come so far.
    pub after: Option<Value>,
    /// When it was rolled back, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
}

/// What puts back what was there.
#[derive(Debug, Clone, PartialEq)]
pub enum Undo {
    /// It is as it was already.
    Nothing,
    /// There was none: the one of this version is deleted.
    Delete(String),
    /// There was one, and is: this one takes its place, where nobody changes it meanwhile.
    Replace(Value),
    /// There was one, and is none: it is made again.
    Create(Value),
}

/// Why a rollback would undo what somebody else did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Changed {
    /// It is gone, and was not deleted by calibrate.
    #[error("somebody has deleted it since")]
    Deleted,
    /// It was deleted and made again.
    #[error("somebody has deleted it since and made it again")]
    Replaced,
    /// Its spec, its labels or its annotations are others.
    #[error("somebody has changed it since")]
    Spec,
}

const SPEC: &str = "/spec";

impl Applied {
    /// How to put back what was there, from what is there now. With `force`, whatever is there now.
    pub fn undo(&self, now: Option<&Value>, force: bool) -> Result<Undo, Changed> {
        let Some(now) = now else {
            return match &self.before {
                None => Ok(Undo::Nothing),
                Some(before) if force => Ok(Undo::Create(anew(before))),
                Some(_) => Err(Changed::Deleted),
            };
        };
        if self
            .before
            .as_ref()
            .is_some_and(|before| before.get("spec") == now.get("spec") && same(before, now))
        {
            return Ok(Undo::Nothing);
        }
        if !force {
            self.is_ours(now)?;
        }
        match &self.before {
            None => Ok(Undo::Delete(text(now, "/metadata/resourceVersion").to_owned())),
            Some(before) => Ok(Undo::Replace(in_place_of(before, now))),
        }
    }

    /// Whether what is there is what was applied.
    fn is_ours(&self, now: &Value) -> Result<(), Changed> {
        match (&self.after, &self.before) {
            (Some(after), _) if !same(after, now) => Err(Changed::Replaced),
            (Some(after), _) if without_noise(after) == without_noise(now) => Ok(()),
            // The apply was cut off before it read back: nobody knows how the spec was stored, but what was
            // written must be in it.
            (None, before) if before.as_ref().is_none_or(|before| same(before, now)) => {
                let written = json!({ "spec": self.written.pointer(SPEC) });
                if super::compare::differences(&written, now).is_empty() {
                    Ok(())
                } else {
                    Err(Changed::Spec)
                }
            }
            (None, _) => Err(Changed::Replaced),
            _ => Err(Changed::Spec),
        }
    }
}

fn same(one: &Value, other: &Value) -> bool {
    text(one, "/metadata/uid") == text(other, "/metadata/uid")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What was there, for the API server to put in the place of what is there now.
fn in_place_of(before: &Value, now: &Value) -> Value {
    let mut object = before.clone();
    for field in ["uid", "resourceVersion"] {
        object["metadata"][field] = now["metadata"][field].clone();
    }
    object
}

/// An object that is made again: what the API server itself puts into it is left to it.
fn anew(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            let kept = ["name", "namespace", "labels", "annotations", "ownerReferences", "finalizers"];
            metadata.retain(|name, _| kept.contains(&name.as_str()));
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hpa(uid: &str, most: i32) -> Value {
        json!({
            "kind": "HorizontalPodAutoscaler", "status": { "desiredReplicas": most },
            "metadata": { "name": "x", "uid": uid, "resourceVersion": "7", "managedFields": [] },
            "spec": { "maxReplicas": most, "minReplicas": 1 },
        })
    }

    fn applied(before: Option<Value>, after: Option<Value>) -> Applied {
        Applied {
            format: FORMAT.to_owned(),
            version: VERSION,
            tool_version: String::new(),
            time: String::new(),
            server: String::new(),
            namespace: "default".to_owned(),
            name: "x".to_owned(),
            manifest: "hpa-batch.yaml".to_owned(),
            written: json!({ "spec": { "maxReplicas": 5 } }),
            before,
            after,
            rolled_back: None,
        }
    }

    #[test]
    fn one_that_was_made_is_deleted_and_only_that_one() {
        let record = applied(None, Some(hpa("a", 5)));
        assert_eq!(record.undo(Some(&hpa("a", 5)), false), Ok(Undo::Delete("7".to_owned())));
        assert_eq!(record.undo(None, false), Ok(Undo::Nothing));
        assert_eq!(record.undo(Some(&hpa("b", 5)), false), Err(Changed::Replaced));
        assert_eq!(record.undo(Some(&hpa("a", 6)), false), Err(Changed::Spec));
        assert_eq!(record.undo(Some(&hpa("b", 6)), true), Ok(Undo::Delete("7".to_owned())));
    }

    #[test]
    fn one_that_was_changed_gets_its_spec_back_if_nobody_else_changed_it() {
        let record = applied(Some(hpa("a", 3)), Some(hpa("a", 5)));
        let mut now = hpa("a", 5);
        now["metadata"]["resourceVersion"] = "9".into();
        let Ok(Undo::Replace(object)) = record.undo(Some(&now), false) else { panic!() };
        assert_eq!(object["spec"], hpa("a", 3)["spec"]);
        assert_eq!(object["metadata"]["resourceVersion"], "9", "what is changed is what was looked at");
        assert_eq!(record.undo(Some(&hpa("a", 4)), false), Err(Changed::Spec));
        assert!(matches!(record.undo(Some(&hpa("a", 4)), true), Ok(Undo::Replace(_))));
        now["metadata"]["labels"] = json!({ "team": "b" });
        assert_eq!(record.undo(Some(&now), false), Err(Changed::Spec), "a label of somebody else");
        assert_eq!(record.undo(Some(&hpa("a", 3)), false), Ok(Undo::Nothing), "as it was already");
    }

    #[test]
    fn one_that_somebody_deleted_is_made_again_only_by_force() {
        let record = applied(Some(hpa("a", 3)), Some(hpa("a", 5)));
        assert_eq!(record.undo(None, false), Err(Changed::Deleted));
        let Ok(Undo::Create(object)) = record.undo(None, true) else { panic!() };
        assert_eq!(object["metadata"], json!({ "name": "x" }));
        assert_eq!((object.get("status"), &object["spec"]["maxReplicas"]), (None, &json!(3)));
    }

    #[test]
    fn an_apply_that_was_cut_off_is_known_by_what_was_written() {
        for before in [None, Some(hpa("a", 3))] {
            let record = applied(before, None);
            assert!(record.undo(Some(&hpa("a", 5)), false).is_ok());
            assert_eq!(record.undo(Some(&hpa("a", 6)), false), Err(Changed::Spec));
        }
        let record = applied(Some(hpa("a", 3)), None);
        assert_eq!(record.undo(Some(&hpa("b", 5)), false), Err(Changed::Replaced));
    }
}
