//! The rooms of `src/` import only what the map allows, so that data keeps flowing one way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms each room may import. A room that is not listed may not exist.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("measurement", &["units"]),
    ("scenario", &["units"]),
    ("plan", &["scenario", "units"]),
    ("drive", &["plan", "measurement", "units"]),
    ("observe", &["measurement", "units"]),
    ("record", &["measurement", "plan", "units"]),
    ("batching", &["units"]),
    ("analyze", &["batching", "measurement", "units"]),
    ("hpa", &["units"]),
    ("replay", &["analyze", "batching", "hpa", "units"]),
    ("recommend", &["analyze", "hpa", "replay", "units"]),
    ("manifest", &["recommend", "units"]),
    ("report", &["analyze", "hpa", "measurement", "recommend", "replay", "units"]),
    // What happens to pods is measured, and goes into the record as an event.
    ("cluster", &["manifest", "measurement", "observe", "units"]),
    ("simulator", &["batching", "units"]),
    ("study", &["analyze", "batching", "measurement", "plan", "scenario", "units"]),
];

/// The edge, which may import everything, and the two root files.
const EDGE: &[&str] = &["cli", "commands", "lib", "main"];

/// The outside crates that do I/O or run tasks, which the pure rooms may not use.
const IMPURE: &[&str] = &[
    "tokio",
    "reqwest",
    "axum",
    "goose",
    "kube",
    "google_cloud_auth",
    "nvml_wrapper",
    "std::fs",
    "std::net",
    "std::thread",
    "std::io",
];
const PURE: &[&str] =
    &["units", "plan", "batching", "analyze", "hpa", "replay", "recommend", "manifest", "study"];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The text of a file without comments and without its tests, which may use what they like.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a readable file");
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
    let text = text.split("#[cfg(test)]\npub(super) mod tests").next().unwrap_or_default().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn room_of(path: &Path) -> String {
    let below = path.strip_prefix(source_root()).expect("a path below src");
    let first = below.components().next().expect("a first part").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms that a text names after `crate::`, also in `use crate::{a::b, c}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let after = &text[at + "crate::".len()..];
        let word =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(group) = after.strip_prefix('{') else {
            found.insert(word(after));
            continue;
        };
        let mut depth = 1;
        let mut item_starts = true;
        for (index, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => item_starts = true,
                c if item_starts && depth == 1 && !c.is_whitespace() => {
                    found.insert(word(&group[index..]));
                    item_starts = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn every_import_between_rooms_is_allowed() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in sources(&source_root()) {
        let room = room_of(&path);
        if EDGE.contains(&room.as_str()) {
            continue;
        }
        let Some(allowed) = table.get(room.as_str()) else {
            wrong.push(format!("{} is in no room of the map", path.display()));
            continue;
        };
        for import in imports(&code(&path)) {
            let is_room = table.contains_key(import.as_str()) || EDGE.contains(&import.as_str());
            if is_room && import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}, which {room} may not", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_do_no_input_or_output() {
    let mut wrong = Vec::new();
    for path in sources(&source_root()) {
        let text = code(&path);
        if PURE.contains(&room_of(&path).as_str()) {
            let uses = IMPURE.iter().filter(|name| text.contains(&format!("{name}::")));
            wrong.extend(uses.map(|name| format!("{} uses {name}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn goose_is_known_to_one_file_only() {
    let users: Vec<PathBuf> =
        sources(&source_root()).into_iter().filter(|path| code(path).contains("goose::")).collect();
    assert_eq!(users, [source_root().join("drive/pool.rs")]);
}

#[test]
fn imports_are_found_in_all_their_forms() {
    let text = "use crate::units::Rate;\nuse crate::{drive, observe::Sink, plan::{Step, x::y}};\nlet a = crate::hpa::f();";
    let expected = ["units", "drive", "observe", "plan", "hpa"].map(str::to_owned);
    assert_eq!(imports(text), expected.into());
}
