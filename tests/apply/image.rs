//! The Dockerfile and the Job that runs its image. There is no engine in a test, so the file is held to
//! what it names: paths, features, flags.

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The instructions, each in one line, without comments.
fn instructions() -> Vec<String> {
    let text = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.join("\n").replace("\\\n", " ").lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[test]
fn what_the_dockerfile_copies_is_there_and_not_ignored() {
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    assert_eq!(ignored.lines().next(), Some("*"), "nothing else goes to the engine");
    let mut copied = 0;
    for line in instructions().iter().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let (_, sources) = words.split_last().unwrap();
        for source in sources {
            assert!(root().join(source).exists(), "{source} does not exist");
            assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source} is ignored");
            copied += 1;
        }
    }
    assert!(copied >= 5, "{copied}");
    // Whatever the build reads beside the crate's own sources.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("path = \"tests/bench/"), "the bench that Cargo.toml names");
    assert!(manifest.contains("readme = \"README.md\""), "only packaging reads it");
}

#[test]
fn the_image_is_one_static_binary_that_runs_as_nobody() {
    let lines = instructions();
    let build = lines.iter().find(|line| line.contains("cargo build")).unwrap();
    for flag in ["--locked", "--release", "--no-default-features", "--bin calibrate", "unknown-linux-musl"] {
        assert!(build.contains(flag), "{flag}: {build}");
    }
    let last = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    let image = &lines[last..];
    assert_eq!(image[0], "FROM scratch");
    assert!(image.contains(&"USER 65532:65532".to_owned()), "{image:?}");
    assert!(image.contains(&"ENTRYPOINT [\"/calibrate\"]".to_owned()), "{image:?}");
    for line in lines.iter().filter(|line| line.starts_with("FROM ")) {
        assert!(!line.contains('/'), "a plain name, from no registry in particular: {line}");
    }
}

#[test]
fn the_job_runs_the_image_as_nobody_with_a_root_that_nothing_is_written_to() {
    let directory = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .args([
            "manifests",
            "--job",
            "--image",
            "mine:1",
            "--namespace",
            "ml",
            "--hpa-deployment",
            "llm",
            "--out",
        ])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", super::said(&output));
    let text = fs::read_to_string(directory.path().join("job.yaml")).unwrap();
    let job = serde_saphyr::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!((&job["kind"], &job["metadata"]["namespace"]), (&"Job".into(), &"ml".into()));
    assert_eq!(job["spec"]["suspend"], true, "kubectl apply -f on the directory must load nothing");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!((&pod["serviceAccountName"], &pod["restartPolicy"]), (&"calibrate".into(), &"Never".into()));
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["runAsUser"]),
        (&true.into(), &65532.into())
    );
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/results");
    }
    let calibrate = &pod["containers"][0];
    assert_eq!(calibrate["image"], "mine:1");
    // Its command line is one that calibrate takes.
    let arguments: Vec<&str> =
        calibrate["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    assert!(arguments.windows(2).any(|pair| pair == ["--deployment", "ml/llm"]), "{arguments:?}");
    let results = directory.path().join("results");
    let arguments = arguments.iter().map(|argument| argument.replace("/results", results.to_str().unwrap()));
    let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .args(arguments)
        .env("KUBECONFIG", directory.path().join("none"))
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "no cluster, but no wrong usage: {}", super::said(&output));
}
