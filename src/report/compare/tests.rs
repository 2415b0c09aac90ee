use super::super::tests::{analysis, facts, recommendation};
use super::*;
use crate::analyze::{Analysis, Method};
use crate::report::RunFacts;

fn of_capacity(value: f64, share: f64) -> Analysis {
    let base = analysis();
    let capacity = base.capacity.clone().map(|capacity| Capacity {
        per_replica: Rate(value),
        low: Rate(value / (1.0 + share)),
        high: Rate(value * (1.0 + share)),
        method: Method::ServerModel,
        ..capacity
    });
    Analysis { capacity, ..base }
}

/// Compares runs of these analyses; the second has the given fields otherwise.
fn compared(analyses: &[Analysis], other: &[(&str, &str)]) -> Comparison {
    let (facts, recommendation): (RunFacts, _) = (facts(), recommendation());
    let fields = |i: usize| {
        let mut fields = BTreeMap::from([("server".to_owned(), "tgi".to_owned())]);
        if i == 1 {
            fields.extend(other.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        }
        fields
    };
    let run = |(i, analysis)| Compared {
        name: format!("run-{i}"),
        input: ReportInput {
            analysis,
            recommendation: Some(&recommendation),
            facts: &facts,
            manifests: &[],
            simulation: None,
            plan: None,
        },
        gpus_per_replica: 2,
        fields: fields(i),
    };
    let runs: Vec<Compared> = analyses.iter().enumerate().map(run).collect();
    let comparison = compare(&runs);
    let files = render_comparison(&runs, &comparison).unwrap();
    assert!(files[0].contents.contains("run-1") && files[1].contents.contains("calibrate/comparison"));
    comparison
}

#[test]
fn capacities_within_their_intervals_are_not_told_apart() {
    let same = compared(&[of_capacity(4.0, 0.05), of_capacity(4.2, 0.05)], &[]);
    assert_eq!((same.runs[0].told_apart, same.runs[1].told_apart), (None, Some(false)));
    let text = comparison_summary(&same);
    assert!(text.contains("within the intervals (-2 % to +13 %)"), "{text}");
    let other = compared(&[of_capacity(4.0, 0.05), of_capacity(4.6, 0.05)], &[]);
    assert_eq!(other.runs[1].told_apart, Some(true));
    let text = comparison_summary(&other);
    assert!(text.contains("+15 % (+7 % to +23 %)"), "{text}");
    insta::assert_snapshot!("comparison", text);
}

#[test]
fn the_interval_of_a_ratio_is_that_of_both_and_no_wider_than_their_sum() {
    let (one, two) = (of_capacity(4.0, 0.03), of_capacity(4.0, 0.04));
    let ratio = ratio(one.capacity.as_ref().unwrap(), two.capacity.as_ref().unwrap());
    let expected = (1.03_f64.ln().powi(2) + 1.04_f64.ln().powi(2)).sqrt().exp();
    assert!((ratio.high - expected).abs() < 1e-9 && (ratio.low * expected - 1.0).abs() < 1e-9, "{ratio:?}");
}

#[test]
fn runs_of_other_limits_or_other_requests_are_compared_with_a_remark() {
    let tighter = Analysis { slos: vec!["ttft:p95:1s".parse().unwrap()], ..of_capacity(3.0, 0.05) };
    let comparison = compared(&[of_capacity(4.0, 0.05), tighter], &[("output-tokens", "fixed:400")]);
    let remarks = comparison.remarks.join("\n");
    assert!(remarks.contains("run-1 is judged by other limits than run-0"), "{remarks}");
    assert!(remarks.contains("another load than run-0 (output-tokens)"), "{remarks}");
    assert_eq!(
        comparison.differs,
        [("output-tokens".to_owned(), vec!["–".to_owned(), "fixed:400".to_owned()])]
    );
    let same = compared(&[of_capacity(4.0, 0.05), of_capacity(4.0, 0.05)], &[]);
    assert_eq!(same.remarks.len(), 1);
    assert!(same.remarks[0].contains("are the same in all runs"));
}

#[test]
fn a_run_without_a_capacity_is_shown_with_the_reason() {
    let none = Analysis { capacity: Err(crate::analyze::NoCapacity::NeverReached), ..analysis() };
    let comparison = compared(&[of_capacity(4.0, 0.05), none], &[]);
    let text = comparison_summary(&comparison);
    assert!(text.contains("never reached the limit"), "{text}");
    assert_eq!((comparison.runs[1].ratio, comparison.runs[1].told_apart), (None, None));
}

#[test]
fn latencies_are_compared_at_loads_that_both_were_driven_at() {
    let comparison = compared(&[of_capacity(8.0, 0.05), of_capacity(8.4, 0.05)], &[]);
    let loads: Vec<f64> = comparison.latencies.iter().map(|row| row.load.0).collect();
    assert!(loads.iter().all(|load| (2.0..=8.0).contains(load)), "{loads:?}");
    for row in &comparison.latencies {
        assert_eq!(row.values[0], row.values[1], "the steps are the same");
        assert_eq!(row.told_apart, [Apart::First, Apart::No]);
    }
    // Steps at 2, 6 and 10 req/s with a TTFT of 0.2, 0.9 and 5 s: on a straight line between them.
    let at_four = comparison.latencies.iter().find(|row| row.metric == "ttft" && row.load.0 == 4.0).unwrap();
    assert!((at_four.values[0].unwrap().value - 0.55).abs() < 1e-9);
}

#[test]
fn gpu_minutes_count_every_gpu_of_every_replica() {
    let comparison = compared(&[of_capacity(4.0, 0.05), of_capacity(4.0, 0.05)], &[]);
    // Three steps of ten seconds on one replica of two GPUs.
    assert!((comparison.runs[0].gpu_minutes - 1.0).abs() < 1e-9);
}
