//! `calibrate manifests` as a user runs it: files, reasons, exit codes, and what other programs make
//! of the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const PLACE: [&str; 6] = ["--project", "my-project", "--cluster", "my-cluster", "--location", "us-central1"];
const TARGETS: [&str; 8] =
    ["--target", "batch=17106m", "--target", "queue=3", "--target", "dcgm=80", "--target", "duty-cycle=80"];

fn manifests(out: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    command.arg("manifests").arg("--out").arg(out).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn document(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn files_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn with_targets_and_a_place_nothing_is_left_out() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("k8s");
    let output = manifests(&out, &[&PLACE[..], &TARGETS, &["--json"]].concat());
    let document = document(&output);
    assert_eq!(document["left_out"].as_array().unwrap().len(), 0, "{document}");
    let listed: BTreeSet<String> =
        document["files"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, files_in(&out));
    for file in ["hpa-combined.yaml", "keda-scaledobject.yaml", "dashboard.json", "setup.sh"] {
        assert!(listed.contains(file), "{file} is missing");
    }
}

#[test]
fn without_a_number_the_rest_is_written_and_the_reasons_are_said() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("k8s");
    let output = manifests(&out, &["--json"]);
    let document = document(&output);
    let said = stderr(&output);
    assert!(files_in(&out).contains("podmonitoring-tgi.yaml"));
    assert!(!files_in(&out).iter().any(|name| name.starts_with("hpa-")));
    for left in document["left_out"].as_array().unwrap() {
        let (file, reason) = (left["file"].as_str().unwrap(), left["reason"].as_str().unwrap());
        assert!(!out.join(file).exists());
        assert!(said.contains(&format!("left out  {file}: {reason}")), "{said}");
    }
    assert!(said.contains("give one with --target batch=VALUE"), "{said}");
    assert!(said.contains("setup.sh: its commands name them: give --project, --cluster-name, --location"));
    fs::write(out.join("hpa-batch.yaml"), "an older one").unwrap();
    assert!(stderr(&manifests(&out, &[])).contains("hpa-batch.yaml is from an earlier call"));
}

#[test]
fn wrong_input_names_itself_and_the_way_out_and_writes_nothing() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("k8s");
    let scenario = directory.path().join("scenario.yaml");
    fs::write(&scenario, "version: 1\ncluster: {projekt: x}\n").unwrap();
    let scenario = scenario.to_str().unwrap();
    for (arguments, said) in [
        (vec!["--target", "batch"], "like batch=17106m"),
        (vec!["--target", "batsch=3"], "none of queue, batch, duty-cycle, dcgm"),
        (vec!["--target", "batch=many"], "not a quantity"),
        (vec!["--target", "batch=0"], "above 0"),
        (vec!["--target", "batch=1", "--target", "batch=2"], "given twice"),
        (vec!["--target", "dcgm=95"], "never scales up"),
        (vec!["--tolerance", "1.5"], "10 % is written 0.1"),
        (vec!["--project", "My Project"], "project 'My Project' is not"),
        (vec!["--cluster-version", "latest"], "cluster-version 'latest' is not"),
        (vec!["--metrics-port", "0"], "metrics-port '0' is not"),
        (vec!["--server", "vlm"], "vllm"),
        (vec!["--server", "/no/such.yaml"], "cannot read the profile /no/such.yaml"),
        (vec!["--scenario", scenario], "did you mean project?"),
        (vec!["--scenario", "/nowhere.yaml"], "cannot read the scenario /nowhere.yaml"),
        (vec!["--run", "/nowhere"], "/nowhere"),
        (vec!["--run", "/nowhere", "--target", "batch=3"], "cannot be used with"),
    ] {
        let output = manifests(&out, &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
    }
    assert!(!out.exists());
}

#[test]
fn names_come_from_the_scenario_and_flags_win() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("k8s");
    let scenario = directory.path().join("scenario.yaml");
    let cluster = "cluster:\n  project: from-file\n  cluster-name: c1\n  location: l1\n  namespace: llm\n  cluster-version: 1.40\n";
    fs::write(&scenario, format!("version: 1\ntolerance: 0.05\n{cluster}")).unwrap();
    let arguments = ["--scenario", scenario.to_str().unwrap(), "--namespace", "other", "--target", "batch=9"];
    document(&manifests(&out, &[&arguments[..], &["--json"]].concat()));
    let keda = fs::read_to_string(out.join("keda-scaledobject.yaml")).unwrap();
    for part in ["projects/from-file/", "namespace=\"other\"", "cluster=\"c1\"", "tolerance: 50m"] {
        assert!(keda.contains(part), "{part} is not in\n{keda}");
    }
}

/// The run that the README shows.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/reports/sample");

#[test]
fn a_recorded_run_gives_its_targets_under_other_names() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("k8s");
    let output = manifests(&out, &[&["--run", SAMPLE, "--json"], &PLACE[..]].concat());
    let written = document(&output);
    // Everything, but where only one metric bears a target there is nothing to combine it with.
    for left_out in written["left_out"].as_array().unwrap() {
        assert_eq!(left_out["file"], "hpa-combined.yaml", "{written}");
        assert!(left_out["reason"].as_str().unwrap().starts_with("it needs two targets"), "{written}");
    }
    let recommendation = fs::read_to_string(format!("{SAMPLE}/recommendation.json")).unwrap();
    let recommendation: Value = serde_json::from_str(&recommendation).unwrap();
    let (metric, target) = (&recommendation["metric"], recommendation["average_value"].as_str().unwrap());
    let yaml = fs::read_to_string(out.join(format!("hpa-{}.yaml", metric.as_str().unwrap()))).unwrap();
    for part in [&format!("averageValue: {target}"), "This is the recommended one", "SIMULATED"] {
        assert!(yaml.contains(part), "{part} is not in\n{yaml}");
    }
    let dashboard = fs::read_to_string(out.join("dashboard.json")).unwrap();
    assert!(dashboard.contains(&format!("HPA target {target}")) && dashboard.contains("my-cluster"));
    let setup = fs::read_to_string(out.join("setup.sh")).unwrap();
    assert!(setup.contains("cluster='my-cluster'") && setup.contains("measured on the simulated server"));
}

#[test]
fn a_run_without_a_target_is_no_source_of_manifests() {
    let directory = TempDir::new().unwrap();
    let (run, out) = (directory.path().join("run"), directory.path().join("k8s"));
    fs::create_dir(&run).unwrap();
    fs::copy(format!("{SAMPLE}/run.json"), run.join("run.json")).unwrap();
    for file in ["requests.csv", "samples.csv", "events.jsonl"] {
        let text = fs::read_to_string(format!("{SAMPLE}/{file}")).unwrap();
        fs::write(run.join(file), text.split_inclusive('\n').take(3).collect::<String>()).unwrap();
    }
    let output = manifests(&out, &["--run", run.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("gives no target"), "{}", stderr(&output));
    assert!(!out.exists());
}

#[test]
fn a_run_directory_gets_the_set_and_loses_what_no_target_stands_for() {
    let directory = TempDir::new().unwrap();
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    for file in ["run.json", "requests.csv", "samples.csv", "events.jsonl"] {
        fs::copy(format!("{SAMPLE}/{file}"), run.join(file)).unwrap();
    }
    fs::write(run.join("keda-scaledobject.yaml"), "an older one").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    let output = command.args(["report", run.to_str().unwrap(), "--json"]).output().unwrap();
    let document = document(&output);
    let written = files_in(&run);
    for file in ["hpa-batch.yaml", "podmonitoring-tgi.yaml", "dashboard.json", "grafana-dashboard.json"] {
        assert!(written.contains(file), "{file} is missing: {written:?}");
    }
    // This run was made without naming a project and a cluster.
    for file in ["keda-scaledobject.yaml", "setup.sh", "hpa-dcgm.yaml"] {
        assert!(!written.contains(file), "{file}");
    }
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("give --cluster-name and --location"), "{warnings}");
}

#[test]
fn a_profile_of_ones_own_gets_manifests_by_its_names() {
    let directory = TempDir::new().unwrap();
    let (out, profile) = (directory.path().join("k8s"), directory.path().join("mine.yaml"));
    let head = "version: 1\nname: my-server\ntitle: Mine\ndescription: x\napis: [chat]\nrecognized-by: []\nport: 9000\n";
    let series = "series:\n  queue_size: [{metric: my_requests, labels: {kind: waiting}}]\n  \
                  batch_size: [{metric: my_requests, labels: {kind: running}}]\n";
    fs::write(&profile, format!("{head}{series}")).unwrap();
    let arguments = ["--server", profile.to_str().unwrap(), "--target", "batch=9", "--json"];
    document(&manifests(&out, &[&PLACE[..], &arguments].concat()));
    let read = |file: &str| fs::read_to_string(out.join(file)).unwrap();
    assert!(read("hpa-batch.yaml").contains("prometheus.googleapis.com|my_requests|gauge"));
    assert!(read("hpa-batch.yaml").contains("metric.labels.kind: running"));
    assert!(
        read("setup.sh").contains("\"containerPort\":9000")
            && read("setup.sh").contains("podmonitoring-my-server.yaml")
    );
    assert!(read("dashboard.json").contains("my_requests"));
    // What goes into a shell file must be no more than a name.
    fs::write(&profile, format!("{head}{series}").replace("kind: waiting", "kind: '$(reboot)'")).unwrap();
    let refused = manifests(&directory.path().join("none"), &arguments);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("the label kind"), "{}", stderr(&refused));
}

/// A program of this name that writes what it is called with into `log`.
fn stub(directory: &Path, name: &str, answers: &str) {
    let path = directory.join(name);
    let log = directory.join("log");
    fs::write(&path, format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\n{answers}\n", log.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_setup_steps_are_sound_shell_and_carry_the_names() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("k8s");
    document(&manifests(
        &out,
        &[&PLACE[..], &TARGETS, &["--metrics-port", "metrics:8000", "--json"]].concat(),
    ));
    let setup = out.join("setup.sh");
    assert!(Command::new("bash").arg("-n").arg(&setup).status().unwrap().success());
    stub(directory.path(), "gcloud", "[ \"$2\" = describe ] && echo 4711; exit 0");
    stub(directory.path(), "kubectl", "exit 0");
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let run = || Command::new("bash").arg(&setup).env("PATH", &path).output().unwrap();
    let output = run();
    assert!(output.status.success(), "{}", stderr(&output));
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let mut at = 0;
    for step in [
        "gcloud container clusters get-credentials my-cluster --location us-central1 --project my-project",
        "\"ports\":[{\"name\":\"metrics\",\"containerPort\":8000}]",
        "kubectl apply -f podmonitoring-tgi.yaml",
        "adapter_new_resource_model.yaml",
        "projects/4711/locations/global/workloadIdentityPools/my-project.svc.id.goog/subject/ns/custom-metrics/",
        "--config-from-file dashboard.json",
        "namespaces/default/pods/*/prometheus.googleapis.com%7Ctgi_queue_size%7Cgauge",
        "kubectl apply --dry-run=server -f hpa-batch.yaml",
        "kubectl apply -f hpa-batch.yaml",
    ] {
        let found = log[at..].find(step);
        at += found.unwrap_or_else(|| panic!("'{step}' does not come in its turn in\n{log}"));
    }
    let named = log
        .split_whitespace()
        .filter(|word| word.strip_suffix(".yaml").is_some_and(|name| !name.contains('/')));
    assert!(named.clone().count() >= 4 && named.clone().all(|file| out.join(file).is_file()));

    stub(directory.path(), "kubectl", "[ \"$2\" = apiservice ] && echo keda; exit 0");
    let output = run();
    assert_eq!(output.status.code(), Some(1), "it does not take the API from another adapter");
    assert!(stderr(&output).contains("from the namespace keda"), "{}", stderr(&output));
}

/// Every query in the files of a directory.
fn queries(out: &Path) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, below) in fields {
                    match below {
                        Value::String(text)
                            if ["expr", "prometheusQuery", "query"].contains(&key.as_str()) =>
                        {
                            found.push(text.clone());
                        }
                        _ => collect(below, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for file in ["dashboard.json", "grafana-dashboard.json"] {
        collect(&serde_json::from_str(&fs::read_to_string(out.join(file)).unwrap()).unwrap(), &mut found);
    }
    let keda = fs::read_to_string(out.join("keda-scaledobject.yaml")).unwrap();
    collect(&serde_saphyr::from_str(keda.split("\n---\n").next().unwrap()).unwrap(), &mut found);
    found.retain(|query| query != "prometheus");
    found
}

#[test]
fn prometheus_itself_understands_every_query() {
    if Command::new("promtool").arg("--version").output().is_err() {
        let required = std::env::var_os("CALIBRATE_REQUIRE_PROMETHEUS").is_some();
        assert!(!required, "CALIBRATE_REQUIRE_PROMETHEUS is set, and there is no promtool on the PATH");
        eprintln!("SKIPPED: there is no promtool on the PATH (Debian: apt-get install prometheus)");
        return;
    }
    let directory = TempDir::new().unwrap();
    let mut rules = String::from("groups:\n- name: queries\n  rules:\n");
    let mut count = 0;
    for server in ["tgi", "vllm", "sglang", "trtllm-serve", "triton-trtllm", "llamacpp", "jetstream"] {
        let out = directory.path().join(server);
        let target = if server == "jetstream" { "queue=3" } else { "batch=17106m" };
        let own = ["--server", server, "--target", target, "--hpa-deployment", "a.b-c", "--json"];
        document(&manifests(&out, &[&PLACE[..], &own].concat()));
        for query in queries(&out) {
            count += 1;
            writeln!(rules, "  - record: query:{count}\n    expr: {}", Value::String(query)).unwrap();
        }
    }
    let file = directory.path().join("rules.yaml");
    fs::write(&file, rules).unwrap();
    let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(count > 100, "{count} queries");
}
