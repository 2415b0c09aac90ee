//! Completions and man pages as their readers take them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Output};
use tempfile::TempDir;

fn calibrate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calibrate")).args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = calibrate(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("calibrate.bash");
    fs::write(&file, stdout(&["completions", "bash"])).unwrap();
    let completed = |words: &[&str]| {
        let line = words.join(" ");
        let script = format!(
            "source '{}'; COMP_WORDS=({line}); [[ '{line}' == *' ' ]] && COMP_WORDS+=(''); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _calibrate calibrate \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let output = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["calibrate", "man"]), ["manifests", "man"]);
    assert!(completed(&["calibrate", "run", "--gpus"]).contains(&"--gpus-per-replica".to_owned()));
    assert_eq!(completed(&["calibrate", "manifests", "--server", "v"]), ["vllm"]);
}

#[test]
fn every_shell_is_completed_for_and_an_unknown_one_is_refused() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(stdout(&["completions", shell]).contains("manifests"), "{shell}");
    }
    assert_eq!(calibrate(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_man_pages_name_every_command_with_its_examples() {
    let page = stdout(&["man"]);
    assert!(page.contains(".TH calibrate 1"), "{page}");
    let directory = TempDir::new().unwrap();
    let output = calibrate(&["man", "--out", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for command in
        ["run", "recommend", "report", "hpa", "manifests", "bench-client", "sim", "completions", "man"]
    {
        let name = format!("calibrate-{command}");
        assert!(page.contains(&name.replace('-', "\\-")), "{name} is not on the first page\n{page}");
        let own = fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        assert!(own.contains("Examples:"), "{name} has no examples");
    }
    let file = directory.path().join("a-file");
    fs::write(&file, "").unwrap();
    assert_eq!(calibrate(&["man", "--out", file.to_str().unwrap()]).status.code(), Some(2));
}
