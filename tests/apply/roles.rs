//! The Roles that `calibrate manifests --rbac` writes.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The documents of `rbac-TASK.yaml`, written below a directory.
pub(crate) fn documents(directory: &Path, task: &str) -> Vec<Value> {
    let out = directory.join("k8s");
    let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .args(["manifests", "--rbac", "--target", "batch=6223m", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(out.join(format!("rbac-{task}.yaml"))).unwrap();
    serde_saphyr::from_multiple::<Value>(&text).unwrap()
}

/// What Roles grant, as the API server's log names it.
pub(crate) fn granted(documents: &[Value]) -> BTreeSet<String> {
    let texts = |value: &Value| {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut granted = BTreeSet::new();
    for rule in documents.iter().filter_map(|object| object["rules"].as_array()).flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let slash = if group.is_empty() { "" } else { "/" };
                    granted.insert(format!("{verb} {group}{slash}{resource}"));
                }
            }
        }
    }
    granted
}
