use super::*;
use crate::recommend::lint::{Place, Rule};
use serde_json::json as value;

fn linted() -> Linted {
    let finding = Finding {
        rule: Rule::DeadTarget,
        severity: Severity::Error,
        file: "my hpa/ä.yaml".to_owned(),
        place: Place { line: 17, column: 23 },
        object: "HorizontalPodAutoscaler default/gemma-hpa".to_owned(),
        field: "spec.metrics[0].external.target.averageValue".to_owned(),
        reason: "it is at most 100".to_owned(),
        fix: "write 90909m or less".to_owned(),
    };
    let unreadable = Finding {
        rule: Rule::UnreadableYaml,
        severity: Severity::Error,
        place: Place::default(),
        object: String::new(),
        field: String::new(),
        ..finding.clone()
    };
    Linted {
        findings: vec![finding, unreadable],
        checked: 1,
        skipped: vec!["a.yaml:1: Service x".to_owned()],
    }
}

#[test]
fn the_text_says_place_subject_and_fix_of_each_finding_and_counts_them() {
    insta::assert_snapshot!(text(&linted()), @r"
    error[dead-target] my hpa/ä.yaml:17:23: it is at most 100
      in:  HorizontalPodAutoscaler default/gemma-hpa, spec.metrics[0].external.target.averageValue
      fix: write 90909m or less

    error[unreadable-yaml] my hpa/ä.yaml: it is at most 100
      fix: write 90909m or less

    2 errors, 0 warnings, 0 notes in 1 autoscaler
    ");
}

#[test]
fn the_json_has_null_for_what_is_not_known() {
    let document = json(&linted());
    assert_eq!((&document["format"], &document["errors"]), (&value!("calibrate/lint"), &value!(2)));
    assert_eq!(document["findings"][0]["line"], 17);
    assert_eq!(document["findings"][1]["line"], value!(null));
    assert_eq!(document["findings"][1]["object"], value!(null));
    assert_eq!(document["skipped"][0], "a.yaml:1: Service x");
}

/// What the standard requires of each part, by its sections 3.13 to 3.33.
#[test]
fn the_sarif_has_the_shape_that_the_standard_requires() {
    let log = sarif(&linted());
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "calibrate");
    let rules = driver["rules"].as_array().unwrap();
    for result in run["results"].as_array().unwrap() {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(["error", "warning", "note", "none"].contains(&result["level"].as_str().unwrap()));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "my%20hpa/%C3%A4.yaml");
    }
    let region = |result: usize| run["results"][result]["locations"][0]["physicalLocation"]["region"].clone();
    assert_eq!(region(0), value!({ "startLine": 17, "startColumn": 23 }));
    assert_eq!(region(1), value!(null), "a region without a line would be no region");
}
