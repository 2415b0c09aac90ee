//! What `doctor` does with a cluster: may a workload be calibrated, and is anything left of killed
//! calibrations?

use super::{Finding, State};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{self, Autoscaler, Cluster, LeaseTimes, Restored, Target};
use crate::commands::run::cluster::{connect, missing_rights, needed, target_of};
use crate::scenario::Scenario;

fn finding(what: &str, state: State, detail: String, mend: Option<&str>) -> Finding {
    Finding { what: what.to_owned(), state, detail, mend: mend.map(str::to_owned) }
}

/// Puts back what killed calibrations left changed.
pub(super) async fn restore(scenario: &Scenario, console: Console) -> Result<Vec<Finding>, Failure> {
    let cluster = connect(scenario.workload.context.as_deref()).await?;
    let identity = cluster.identity().clone();
    let of_workload = match &scenario.workload.deployment {
        Some(name) => name.parse::<cluster::TargetName>().or_exit(Exit::Usage)?.namespace,
        None => None,
    };
    let namespace =
        of_workload.or_else(|| scenario.cluster.namespace.clone()).unwrap_or(identity.namespace.clone());
    console.note(&format!("cluster: {identity}; namespace {namespace}"));
    let restored =
        cluster::restore_all(&cluster, &namespace, LeaseTimes::default()).await.or_exit(Exit::Failed)?;
    let mut findings: Vec<Finding> = restored.into_iter().map(of_restored).collect();
    if findings.is_empty() {
        let detail = format!("nothing is left changed in the namespace {namespace}");
        findings.push(finding("calibrations", State::Ok, detail, None));
    }
    Ok(findings)
}

fn of_restored(restored: Restored) -> Finding {
    match restored {
        Restored::Lease { name, changes } => {
            let detail = match changes {
                0 => "was left behind and had changed nothing".to_owned(),
                changes => format!("{changes} changes of a calibration that was cut off are undone"),
            };
            finding(&format!("Lease {name}"), State::Ok, detail, None)
        }
        Restored::Busy { name, holder } => finding(
            &format!("Lease {name}"),
            State::Remark,
            format!("a calibration is going on: {holder}"),
            Some("wait until it ends"),
        ),
        Restored::Autoscaler(what) => {
            finding(&what, State::Ok, "was paused without a lease and is as it was".to_owned(), None)
        }
    }
}

/// Looks whether a workload can be calibrated. Nothing is changed.
pub(super) async fn examine(
    scenario: &Scenario,
    name: &str,
    console: Console,
) -> Result<Vec<Finding>, Failure> {
    let cluster = connect(scenario.workload.context.as_deref()).await?;
    console.note(&format!("cluster: {}", cluster.identity()));
    let target = target_of(&cluster, scenario, name).await?;
    let mut findings = Vec::new();
    let place = format!("{}, container {} port {}", target.selector, target.container, target.port);
    findings.push(match target.ready_pods(&cluster).await {
        Ok(pods) => finding(&target.what(), State::Ok, format!("{} ready pods; {place}", pods.len()), None),
        Err(error) => finding(&target.what(), State::Failed, error.to_string(), None),
    });
    let pause = scenario.workload.pause_autoscaler == Some(true);
    findings.push(match cluster::autoscalers(&cluster, &target).await {
        Ok(active) => autoscaled(&active, pause),
        Err(error) => finding("autoscalers", State::Failed, error.to_string(), None),
    });
    findings.push(rights(&cluster, &target, scenario).await);
    Ok(findings)
}

fn autoscaled(active: &[Autoscaler], pause: bool) -> Finding {
    let names = active.iter().map(Autoscaler::what).collect::<Vec<_>>().join(", ");
    match (active.is_empty(), pause) {
        (true, _) => finding("autoscalers", State::Ok, "none scales it".to_owned(), None),
        (false, true) => finding("autoscalers", State::Ok, format!("{names}: paused for a run"), None),
        (false, false) => {
            let mend = "add --pause-autoscaler, which pauses it for the run and puts it back";
            finding(
                "autoscalers",
                State::Failed,
                format!("{names} would scale it under the load"),
                Some(mend),
            )
        }
    }
}

/// Asks the API server for every right that a run needs.
async fn rights(cluster: &Cluster, target: &Target, scenario: &Scenario) -> Finding {
    let missing = match missing_rights(cluster, target, scenario).await {
        Ok(missing) => missing,
        Err(error) => return finding("rights", State::Failed, error.to_string(), None),
    };
    if missing.is_empty() {
        let all = needed(target, scenario).iter().map(|rule| rule.verbs.len()).sum::<usize>();
        return finding("rights", State::Ok, format!("all {all} that a run needs"), None);
    }
    let mend = "grant them; calibrate manifests --rbac writes the Roles";
    finding("rights", State::Failed, format!("may not {}", missing.join("; may not ")), Some(mend))
}
