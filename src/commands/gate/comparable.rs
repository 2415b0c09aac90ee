//! Which runs can be compared, and what must be said when they are.

use crate::record::RunInfo;
use crate::scenario::Scenario;
use std::fmt::Write;

/// Whether a baseline can stand beside a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Comparability {
    /// Not at all.
    Refused(String),
    /// With these remarks.
    With(Vec<String>),
}

type Run<'a> = (&'a RunInfo, &'a Scenario);

/// What the load is must be the same: requests, API, arrivals, replicas. What is under test may differ: server,
/// model, calibrate itself; and what leaves the comparison sound may too, with a remark. `given`: the limits
/// come from flags.
pub(super) fn compare(run: Run, baseline: Run, given: bool) -> Comparability {
    if let Some(reason) = refused(run, baseline) {
        return Comparability::Refused(reason);
    }
    let ((info, scenario), (base, base_scenario)) = (run, baseline);
    let mut remarks = Vec::new();
    let mut differs = |what: &str, one: String, two: String, so: &str| {
        if one != two {
            remarks.push(format!("{what} {two}, and the run's {one}{so}"));
        }
    };
    differs("its server is", info.server(), base.server(), "");
    differs("it was measured by calibrate", info.tool_version.clone(), base.tool_version.clone(), "");
    differs(
        "its ramp is",
        scenario.ramp.to_string(),
        base_scenario.ramp.to_string(),
        ": only equal loads are compared",
    );
    let other_requests = ": not the same requests, which makes the interval wider";
    differs("its seed is", scenario.seed.to_string(), base_scenario.seed.to_string(), other_requests);
    let client =
        |info: &RunInfo| format!("{} {} with {} processors", info.host.os, info.host.arch, info.host.cpus);
    differs("its client was", client(info), client(base), "");
    if !given {
        let slos = |s: &Scenario| s.slos.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        differs("its SLO is", slos(scenario), slos(base_scenario), ": both are judged by that of the run");
    }
    Comparability::With(remarks)
}

fn refused((info, scenario): Run, (base, base_scenario): Run) -> Option<String> {
    if (&info.run_id, &info.started_utc) == (&base.run_id, &base.started_utc) {
        return Some("it is the run itself; name another one as --baseline".to_owned());
    }
    let requests = |s: &Scenario| {
        let mut text = match &s.dataset {
            Some(file) => format!("requests of {}", file.display()),
            None => format!("prompts of {}, answers of {}", s.input_tokens, s.output_tokens),
        };
        if let Some(most) = s.max_new_tokens {
            let _ = write!(text, ", max-new-tokens {most}");
        }
        if s.shared_prefix > 0 {
            let _ = write!(text, ", shared prefix of {}", s.shared_prefix);
        }
        text
    };
    let api = |s: &Scenario| {
        let api = s.api.map_or_else(|| "the server's API".to_owned(), |api| format!("the API {api:?}"));
        format!("{api}, {}", if s.stream { "streamed" } else { "in one piece" })
    };
    let arrivals = |s: &Scenario| match s.burstiness {
        Some(shape) => format!("gaps of burstiness {shape}"),
        None => format!("{:?} arrivals", s.arrivals).to_lowercase(),
    };
    let replicas = |s: &Scenario| format!("{} replicas of {} GPUs", s.replicas, s.gpus_per_replica);
    let kind = |info: &RunInfo| {
        if info.target.simulated { "a simulated server" } else { "a real server" }.to_owned()
    };
    let pairs = [
        (kind(info), kind(base)),
        (replicas(scenario), replicas(base_scenario)),
        (requests(scenario), requests(base_scenario)),
        (api(scenario), api(base_scenario)),
        (arrivals(scenario), arrivals(base_scenario)),
    ];
    let (one, two) = pairs.into_iter().find(|(one, two)| one != two)?;
    Some(format!(
        "it cannot be compared: it has {two}, and the run has {one}; measure a baseline with the run's scenario"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{HostFacts, TargetFacts};
    use crate::scenario::Settings;

    fn info(id: &str) -> RunInfo {
        let target = TargetFacts {
            url: String::new(),
            simulated: true,
            kind: None,
            profile: None,
            info: None,
            single_latency: None,
            replicas: 1,
            metrics_urls: Vec::new(),
            gpu_metrics_urls: Vec::new(),
            sources: Vec::new(),
        };
        let host = HostFacts { os: "linux".into(), arch: "x86_64".into(), cpus: 2 };
        let scenario = serde_json::Value::Null;
        RunInfo::new(
            id.into(),
            "ci".into(),
            "2026-01-01T00:00:00Z".into(),
            scenario,
            Vec::new(),
            target,
            host,
        )
    }

    fn scenario(change: impl FnOnce(&mut Settings)) -> Scenario {
        let slo = Some(vec!["ttft:p95:2s".parse().unwrap()]);
        let mut settings =
            Settings { slo, ramp: Some("rate:8,12x30s".parse().unwrap()), ..Settings::default() };
        change(&mut settings);
        settings.resolve().unwrap()
    }

    fn compared(change: impl FnOnce(&mut Settings)) -> Comparability {
        compare((&info("run"), &scenario(|_| {})), (&info("base"), &scenario(change)), false)
    }

    #[test]
    fn runs_of_one_scenario_are_compared_without_a_remark() {
        assert_eq!(compared(|_| {}), Comparability::With(Vec::new()));
    }

    #[test]
    fn another_load_is_refused_with_both_sides_named() {
        let changes: [fn(&mut Settings); 6] = [
            |s| s.input_tokens = Some("fixed:99".parse().unwrap()),
            |s| s.replicas = Some(3),
            |s| s.stream = Some(false),
            |s| s.burstiness = Some(0.25),
            |s| s.max_new_tokens = Some(77),
            |s| s.shared_prefix = Some(9),
        ];
        let says = ["fixed:99", "3 replicas", "one piece", "0.25", "77", "prefix of 9"];
        for (change, says) in changes.into_iter().zip(says) {
            // Without streams there is no TTFT.
            let change = |s: &mut Settings| {
                s.slo = Some(vec!["e2e:p95:2s".parse().unwrap()]);
                change(s);
            };
            let Comparability::Refused(reason) = compared(change) else { panic!("{says} is compared") };
            assert!(reason.contains(says) && reason.contains("measure a baseline"), "{reason}");
        }
        let real = RunInfo { target: TargetFacts { simulated: false, ..info("x").target }, ..info("base") };
        let same = scenario(|_| {});
        assert!(matches!(compare((&info("run"), &same), (&real, &same), false), Comparability::Refused(_)));
        assert!(matches!(
            compare((&info("run"), &same), (&info("run"), &same), false),
            Comparability::Refused(_)
        ));
    }

    #[test]
    fn what_leaves_a_comparison_sound_is_said_and_never_silent() {
        type Case = (fn(&mut Settings), &'static str);
        let changes: [Case; 3] = [
            (|s| s.seed = Some(9), "its seed is 9, and the run's 1: not the same requests"),
            (|s| s.ramp = Some("rate:8x30s".parse().unwrap()), "only equal loads are compared"),
            (|s| s.slo = Some(vec!["ttft:p95:1s".parse().unwrap()]), "its SLO is ttft:p95:1s"),
        ];
        for (change, says) in changes {
            let Comparability::With(remarks) = compared(change) else { panic!("{says} is refused") };
            assert!(remarks.len() == 1 && remarks[0].contains(says), "{remarks:?}");
        }
        let other = RunInfo { tool_version: "9.9.9".into(), ..info("base") };
        let same = scenario(|_| {});
        let found = compare((&info("run"), &same), (&other, &same), false);
        assert!(matches!(found, Comparability::With(remarks) if remarks[0].contains("9.9.9")));
    }
}
