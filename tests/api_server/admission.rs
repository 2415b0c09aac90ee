//! What the API server makes of an HPA that it is given: defaults, canonical quantities, refusals.
//!
//! A spec that a real server was seen to refuse is refused with its very answer.

use super::answer::{Answer, fixture, recording};
use calibrate::hpa::Quantity;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Specs of recorded requests that were refused, and the names of their files.
static REFUSED: LazyLock<Vec<(Value, String)>> = LazyLock::new(|| {
    let directory = fixture("x");
    let entries = std::fs::read_dir(directory.parent().expect("a directory")).expect("recorded answers");
    let names = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let name = name.strip_suffix(".json")?.to_owned();
        (name.starts_with("bad-") || name.starts_with("quantity-dryrun-")).then_some(name)
    });
    let refused = names.filter_map(|name| {
        let recording = recording(&name);
        let body = match &recording["request"]["body"] {
            Value::String(text) => serde_json::from_str(text).ok()?,
            body => body.clone(),
        };
        let spec = body.get("spec")?.clone();
        let said = &recording["response"]["body"];
        // Only where the spec itself is to blame.
        let by_spec = match said["code"].as_u64()? {
            422 => said["details"]["causes"]
                .as_array()?
                .iter()
                .all(|cause| cause["field"].as_str().is_some_and(|field| field.starts_with("spec"))),
            400 => said["message"].as_str()?.contains("quantities must match"),
            _ => false,
        };
        by_spec.then_some((spec, name))
    });
    refused.collect()
});

/// Refuses what the real server refused.
pub fn check(object: &Value) -> Result<(), Answer> {
    let refused = REFUSED.iter().find(|(spec, _)| Some(spec) == object.get("spec"));
    let Some((_, name)) = refused else { return Ok(()) };
    let mut answer = Answer::recorded(name);
    let wanted = object["metadata"]["name"].as_str().unwrap_or_default();
    let text = String::from_utf8_lossy(&answer.body).replace("gemma-server", wanted);
    answer.body = text.into_bytes();
    Err(answer)
}

/// Fills in defaults and writes quantities in their canonical form. A server before 1.35 drops what it
/// does not know.
pub fn admit(object: &mut Value, minor: u32) {
    let spec = &mut object["spec"];
    if spec["minReplicas"].is_null() {
        spec["minReplicas"] = 1.into();
    }
    for metric in spec["metrics"].as_array_mut().into_iter().flatten() {
        for source in ["pods", "external", "object"] {
            let Some(target) = metric.get_mut(source).and_then(|source| source.get_mut("target")) else {
                continue;
            };
            for value in ["averageValue", "value"] {
                canonical(target, value);
            }
        }
    }
    if !spec["behavior"].is_object() {
        if let Some(spec) = spec.as_object_mut() {
            spec.shift_remove("behavior");
        }
        return;
    }
    let behavior = &mut spec["behavior"];
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    let or = |slot: &mut Value, default: Value| {
        if slot.is_null() {
            *slot = default;
        }
    };
    or(&mut behavior["scaleUp"]["stabilizationWindowSeconds"], 0.into());
    for (direction, policies) in [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))] {
        let rules = &mut behavior[direction];
        or(&mut rules["selectPolicy"], "Max".into());
        or(&mut rules["policies"], policies);
        if minor < 35 {
            rules.as_object_mut().expect("rules").shift_remove("tolerance");
        } else if !rules["tolerance"].is_null() {
            canonical(rules, "tolerance");
        } else {
            rules.as_object_mut().expect("rules").shift_remove("tolerance");
        }
    }
}

/// Rewrites a quantity, where there is one.
fn canonical(holder: &mut Value, field: &str) {
    let Some(slot) = holder.get_mut(field) else { return };
    let text = slot.as_str().map_or_else(|| slot.to_string(), str::to_owned);
    // A whole number, with or without a suffix of thousands, stays as it was written.
    let power = text.split_once(['e', 'E']).and_then(|(_, power)| power.parse::<i32>().ok());
    let huge = power.is_some_and(|power| !(0..=18).contains(&power));
    if slot.is_string() && !text.contains('.') && !text.ends_with(['m', 'u', 'n']) && !huge {
        *slot = text.trim().into();
        return;
    }
    if let Ok(quantity) = text.parse::<Quantity>() {
        *slot = quantity.to_string().into();
    }
}
