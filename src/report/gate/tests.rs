use super::*;
use crate::analyze::gate::{LeastCapacity, SloInStep, decide};
use crate::analyze::regression::{Change, Comparison, LoadChange, Outcome};
use crate::analyze::{Capacity, Method, NoCapacity};
use crate::report::tests::{Element, elements, schema};
use crate::units::{Load, Rate, Replicas, Seconds};

fn run(id: &str) -> GateRun {
    GateRun {
        directory: format!("reports/{id}"),
        id: Some(id.to_owned()),
        started: Some("2026-11-27T10:00:00Z".to_owned()),
        server: Some("TGI 3.3.7, simulated/demo".to_owned()),
        simulated: true,
        measurement: Some("valid"),
        problem: None,
    }
}

fn comparison(limit: &str, by: f64, outcome: Outcome) -> Comparison {
    let change = Change { by, low: by - 0.03, high: by + 0.03 };
    let at = LoadChange { load: Load::Rate(Rate(8.0)), baseline: 0.1, run: 0.1 * (1.0 + by), change };
    Comparison {
        limit: limit.parse().unwrap(),
        outcome,
        change: Some(change),
        loads: vec![at],
        requests: 480,
        paired: true,
        longer: Some(2.5),
        length: Some(Seconds(133.0)),
        detectable: Some(0.057),
        remarks: Vec::new(),
    }
}

fn report() -> GateReport {
    let slo = |slo: &str, value, outcome| {
        let load = Load::Rate(Rate(8.0));
        Check::Slo(SloInStep { slo: slo.parse().unwrap(), load, attempts: 203, value, outcome })
    };
    let capacity = |capacity, outcome| {
        Check::Capacity(LeastCapacity { least: Rate(12.0), capacity, held: Some(Rate(12.0)), outcome })
    };
    let found = Capacity {
        per_replica: Rate(16.6),
        low: Rate(15.9),
        high: Rate(17.4),
        method: Method::ServerModel,
        replicas: Replicas(1),
        limited_by: "tpot:p95:50ms".parse().unwrap(),
        bracket: None,
    };
    let checks = vec![
        slo("ttft:p95:500ms", Some(0.0213), Outcome::Pass),
        slo("error:rate:1%", Some(0.02), Outcome::Fail),
        slo("e2e:p95:1s", None, Outcome::CannotTell),
        capacity(Ok(found), Outcome::Pass),
        capacity(Err(NoCapacity::NeverReached), Outcome::Pass),
        Check::Regression(comparison("ttft:p95:10%", 0.013, Outcome::Pass)),
        Check::Regression(comparison("tpot:p95:10%", 0.12, Outcome::Fail)),
        Check::Regression(comparison("throughput:5%", -0.04, Outcome::CannotTell)),
        Check::Regression(Comparison {
            length: None,
            ..comparison("e2e:p95:10%", 0.08, Outcome::CannotTell)
        }),
    ];
    GateReport {
        run: run("ci"),
        baselines: vec![run("main-1"), run("main-2")],
        decision: decide(&checks),
        checks,
        remarks: vec!["baseline main-2: its seed is 2, and the run's 1".to_owned()],
        on_inconclusive: OnInconclusive::Rerun,
        exit_code: 3,
        tool_version: "0.1.0".to_owned(),
    }
}

fn refused() -> GateReport {
    let run = GateRun { problem: Some("it was interrupted (Ctrl-C)".to_owned()), ..run("ci") };
    GateReport { run, checks: Vec::new(), decision: Decision::Invalid, exit_code: 4, ..report() }
}

#[test]
fn every_output_stays_as_it_is() {
    insta::assert_snapshot!("text", text(&report(), false));
    insta::assert_snapshot!("markdown", markdown(&report()));
    insta::assert_snapshot!("junit", junit(&report()));
    insta::assert_snapshot!("json_schema", schema(&json(&report())));
}

#[test]
fn what_cannot_be_told_says_how_long_a_run_would_tell() {
    let open = |length| {
        let mut report = report();
        report.checks = vec![Check::Regression(Comparison {
            length,
            ..comparison("ttft:p95:10%", 0.05, Outcome::CannotTell)
        })];
        report.decision = decide(&report.checks);
        report
    };
    let verdict = words::verdict(&open(Some(Seconds(133.0))));
    assert_eq!(verdict, "cannot tell in 1 of 1 checks: run again, 3 minutes long");
    assert!(words::verdict(&open(None)).ends_with("give more baselines, or larger limits"));
    let pass = GateReport { on_inconclusive: OnInconclusive::Pass, ..open(None) };
    assert!(words::verdict(&pass).ends_with("which counts as passed"));
}

#[test]
fn a_run_that_cannot_be_used_says_why_everywhere() {
    let report = refused();
    for output in [text(&report, false), markdown(&report), junit(&report), json(&report).to_string()] {
        assert!(output.contains("it was interrupted (Ctrl-C)"), "{output}");
    }
    assert_eq!(json(&report)["verdict"], "invalid");
    assert_eq!(json(&report)["exit_code"], 4);
}

#[test]
fn a_check_is_one_line_on_the_terminal() {
    let report = report();
    let lines = text(&report, false);
    let marked = lines.lines().filter(|line| line.starts_with(['✓', '✗', '?'])).count();
    assert_eq!(marked, report.checks.len());
    assert!(!lines.contains('\x1b') && text(&report, true).contains('\x1b'));
}

/// Elements of the JUnit schema that Jenkins publishes (junit-10): their attributes, those that must be there, and
/// their children.
type Names = &'static [&'static str];
const SCHEMA: [(&str, Names, Names, Names); 7] = [
    ("testsuites", &["name", "time", "tests", "failures", "disabled", "errors"], &[], &["testsuite"]),
    (
        "testsuite",
        &[
            "name",
            "tests",
            "failures",
            "errors",
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
            "version",
        ],
        &["name"],
        &["testsuite", "properties", "testcase", "system-out", "system-err"],
    ),
    (
        "testcase",
        &["name", "time", "classname", "group"],
        &["name"],
        &[
            "skipped",
            "error",
            "failure",
            "rerunFailure",
            "rerunError",
            "flakyFailure",
            "flakyError",
            "system-out",
            "system-err",
        ],
    ),
    ("failure", &["type", "message"], &[], &[]),
    ("error", &["type", "message"], &[], &[]),
    ("skipped", &["type", "message"], &[], &[]),
    ("system-out", &[], &[], &[]),
];

fn hold_schema(element: &Element, problems: &mut Vec<String>) {
    let name = element.name.as_str();
    let Some((_, allowed, needed, children)) = SCHEMA.iter().find(|(known, ..)| *known == name) else {
        problems.push(format!("{name} is no element"));
        return;
    };
    for (attribute, value) in &element.attributes {
        if !allowed.contains(&attribute.as_str()) {
            problems.push(format!("{name} has no attribute {attribute}"));
        }
        let number = matches!(attribute.as_str(), "tests" | "failures" | "errors" | "skipped" | "time");
        if number && value.parse::<f64>().is_err() {
            problems.push(format!("{name} {attribute} is no number: {value}"));
        }
    }
    let has = |attribute: &&&str| element.attributes.iter().any(|(name, _)| name == **attribute);
    problems
        .extend(needed.iter().filter(|needed| !has(needed)).map(|needed| format!("{name} needs {needed}")));
    for child in &element.children {
        if !children.contains(&child.name.as_str()) {
            problems.push(format!("{} is no child of {name}", child.name));
        }
        hold_schema(child, problems);
    }
}

#[test]
fn the_junit_xml_keeps_its_schema_and_counts_what_it_holds() {
    for policy in [OnInconclusive::Pass, OnInconclusive::Fail, OnInconclusive::Rerun] {
        for report in [report(), refused()] {
            let report = GateReport { on_inconclusive: policy, ..report };
            let root = elements(&junit(&report));
            let mut problems = Vec::new();
            hold_schema(&root, &mut problems);
            assert!(problems.is_empty(), "{problems:?}");
            let suite = &root.children[0];
            let count = |wanted: &str| {
                let has = |case: &&Element| case.children.iter().any(|child| child.name == wanted);
                suite.children.iter().filter(has).count().to_string()
            };
            assert_eq!(suite.attribute("failures"), Some(&*count("failure")));
            assert_eq!(suite.attribute("errors"), Some(&*count("error")));
            assert_eq!(suite.attribute("skipped"), Some(&*count("skipped")));
            let cases = suite.children.iter().filter(|child| child.name == "testcase").count();
            assert_eq!(suite.attribute("tests"), Some(&*cases.to_string()));
            assert_eq!(cases, report.checks.len() + 1 + report.baselines.len());
        }
    }
}

#[test]
fn what_cannot_be_told_is_skipped_failed_or_an_error_as_wanted() {
    let fates = |on_inconclusive| {
        let root = elements(&junit(&GateReport { on_inconclusive, ..report() }));
        ["skipped", "failures", "errors"].map(|name| root.children[0].attribute(name).unwrap().to_owned())
    };
    assert_eq!(fates(OnInconclusive::Pass), ["3", "2", "0"]);
    assert_eq!(fates(OnInconclusive::Fail), ["0", "5", "0"]);
    assert_eq!(fates(OnInconclusive::Rerun), ["0", "2", "3"]);
}

#[test]
fn names_that_others_chose_can_break_neither_xml_nor_markdown() {
    let hostile = "a\"b<c>&'\u{1}\u{fffe}\n| x |";
    let hostile_run = GateRun { id: Some(hostile.to_owned()), server: Some(hostile.to_owned()), ..run("ci") };
    let report = GateReport { run: hostile_run, remarks: vec![hostile.to_owned()], ..report() };
    let root = elements(&junit(&report));
    let name = root.children[0].children[0].attribute("name").unwrap();
    assert!(name.contains("a\"b<c>&'"), "{name}");
    assert!(!junit(&report).contains(['\u{1}', '\u{fffe}']));
    let markdown = markdown(&report);
    assert!(!markdown.contains("<c>") && !markdown.contains("\n| x |"), "{markdown}");
}
