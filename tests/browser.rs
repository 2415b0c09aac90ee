//! The report in a real browser: headless Chromium opens the rendered sample at two widths, in light and dark, with
//! and without scripts. Screenshots are left in `target/screenshots`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "what was skipped is said")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROBE: &str = include_str!("browser/probe.html");
/// The host that the pages under test are served by. Every request of the browser goes to one address, which answers
/// for this host alone and writes down what else is asked for.
const HOST: &str = "http://report.test";
/// Looked for in this order.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn browser() -> Option<&'static str> {
    let there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let found = BROWSERS.iter().find(there).copied();
    if found.is_none() {
        let required = std::env::var_os("CALIBRATE_REQUIRE_CHROMIUM").is_some();
        assert!(!required, "CALIBRATE_REQUIRE_CHROMIUM is set, and there is no chromium on the PATH");
        eprintln!("SKIPPED: there is no chromium on the PATH (Debian: apt-get install chromium)");
    }
    found
}

fn calibrate(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_calibrate")).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The record of the sample alone, so that everything else is made anew.
fn copy_record(to: &Path) {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
    fs::create_dir_all(to.join("latency")).unwrap();
    for name in ["run.json", "requests.csv", "samples.csv", "events.jsonl"] {
        fs::copy(sample.join(name), to.join(name)).unwrap();
    }
    for file in fs::read_dir(sample.join("latency")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join("latency").join(file.file_name())).unwrap();
    }
}

/// Serves files of a directory and the probe, as the proxy of the browser.
struct Site {
    address: String,
    foreign: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn serve(directory: PathBuf) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let foreign = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&foreign);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (directory, seen) = (directory.clone(), Arc::clone(&seen));
                std::thread::spawn(move || answer(stream, &directory, &seen));
            }
        });
        Site { address, foreign }
    }

    /// The hosts that were asked for besides the site's own. What Chromium asks its maker for by itself (the time,
    /// updates) is none of the page's doing, and ends here too.
    fn foreign_hosts(&self) -> Vec<String> {
        let host = |request: &String| {
            let asked = request.split(' ').nth(1).unwrap_or_default();
            let host = asked.split("://").last().unwrap_or_default();
            host.split(['/', ':']).next().unwrap_or_default().to_owned()
        };
        let makers = [".google.com", ".googleapis.com", ".gvt1.com"];
        let mut hosts: Vec<String> = self.foreign.lock().unwrap().iter().map(host).collect();
        hosts.retain(|host| !makers.iter().any(|maker| host.ends_with(maker)));
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

fn answer(mut stream: TcpStream, directory: &Path, foreign: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    // The rest of the request is read, or closing would reset the connection.
    let _ = lines.take_while(|line| !line.is_empty()).count();
    let asked = request.split(' ').nth(1).unwrap_or_default();
    let body = match asked.strip_prefix(HOST).map(|path| path.split('?').next().unwrap_or_default()) {
        Some("/probe.html") => Some(PROBE.as_bytes().to_vec()),
        Some(path) => fs::read(directory.join(path.trim_start_matches('/'))).ok(),
        None => None,
    };
    if body.is_none() {
        foreign.lock().unwrap().push(request.clone());
    }
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// How a page is opened.
#[derive(Debug, Clone, Copy)]
struct View {
    page: &'static str,
    width: u32,
    dark: bool,
    scripts: bool,
}

impl View {
    fn name(self) -> String {
        let page = self.page.trim_end_matches(".html");
        let scheme = if self.dark { "dark" } else { "light" };
        format!("{page}-{}-{scheme}{}", self.width, if self.scripts { "" } else { "-no-scripts" })
    }

    /// Opens it, and says what the probe saw and what the console said.
    fn open(self, browser: &str, site: &Site, screenshots: &Path) -> (Value, Vec<String>) {
        let profile = TempDir::new().unwrap();
        let scripts = if self.scripts { "yes" } else { "no" };
        let url = format!("{HOST}/probe.html?page=/{}&width={}&scripts={scripts}", self.page, self.width);
        let mut command = Command::new(browser);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--proxy-server={}", site.address))
            .arg("--proxy-bypass-list=<-loopback>")
            .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!self.dark)))
            .arg("--virtual-time-budget=10000")
            // A window is at least some 500 pixels wide, so a narrow page stands in a frame.
            .arg(format!("--window-size={},6000", self.width.max(600)))
            .arg(format!("--screenshot={}", screenshots.join(self.name() + ".png").display()))
            .args(["--dump-dom", &url]);
        let (stdout, stderr) = finish(command, profile.path());
        let probe = stdout.split("<pre id=\"probe\" hidden=\"\">").nth(1);
        let probe = probe.and_then(|rest| rest.split("</pre>").next()).unwrap_or_default();
        let probe = probe.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let seen = serde_json::from_str(&probe)
            .unwrap_or_else(|error| panic!("{self:?}: {error}: {probe}\n{stdout:.300}\n{stderr}"));
        // That a page without scripts may run none is what was asked for.
        let expected = |line: &str| !self.scripts && line.contains("Blocked script execution");
        let console = stderr.lines().filter(|line| line.contains("CONSOLE") && !expected(line));
        let console = console.map(str::to_owned).collect();
        (seen, console)
    }
}

/// Runs a browser to its end, or stops it after two minutes.
#[allow(clippy::disallowed_methods, reason = "a browser that hangs is stopped in real time")]
fn finish(mut command: Command, scratch: &Path) -> (String, String) {
    let (out, err) = (scratch.join("stdout"), scratch.join("stderr"));
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let mut process = command.stdin(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(120) {
            process.kill().unwrap();
            process.wait().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    (read(&out), read(&err))
}

/// What holds for every page, at every width, in light and dark.
fn is_sound(view: View, seen: &Value, console: &[String]) {
    assert_eq!(seen["failed"], Value::Null, "{view:?}: {seen}");
    assert!(console.is_empty(), "{view:?}: {console:#?}");
    assert_eq!(seen["resources"], serde_json::json!([]), "{view:?}");
    assert_eq!(seen["width"], view.width, "{view:?}");
    assert_eq!(seen["widest"], view.width, "{view:?}: the page is wider than its window");
    assert!(seen["contrast"].as_f64().unwrap() >= 7.0, "{view:?}: {}", seen["contrast"]);
    let is_dark = seen["background"].as_str().unwrap() != "rgb(255, 255, 255)";
    assert_eq!(is_dark, view.dark, "{view:?}: {}", seen["background"]);
    let figures = seen["figures"].as_array().unwrap();
    assert!(!figures.is_empty(), "{view:?}");
    for figure in figures {
        let of = |name: &str| figure[name].as_f64().unwrap();
        assert!(of("width") >= 280.0 && of("height") >= 90.0, "{view:?}: {figure}");
        assert!(of("shapes") >= 1.0, "{view:?}: {figure}");
        assert!(of("smallest") >= 9.0, "{view:?}: letters of {figure}");
        assert!(of("contrast") >= 3.5, "{view:?}: text of {figure}");
    }
}

fn titles(seen: &Value) -> Vec<&str> {
    seen["figures"].as_array().unwrap().iter().filter_map(|figure| figure["title"].as_str()).collect()
}

#[test]
fn the_report_of_the_sample_is_sound_in_a_browser() {
    let Some(browser) = browser() else { return };
    let directory = TempDir::new().unwrap();
    let run = directory.path().join("run");
    copy_record(&run);
    let path = run.to_str().unwrap();
    calibrate(&["report", path, "--plan", "10,50,200 rps", "--gpu-cost", "0.70"]);
    calibrate(&["report", path, path, "--compare"]);
    let control =
        "<!DOCTYPE html><img src='http://elsewhere.test/x.png'><script>throw Error('seen')</script>";
    fs::write(run.join("control.html"), control).unwrap();
    let site = Site::serve(run.clone());
    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    fs::create_dir_all(&screenshots).unwrap();
    let report = View { page: "report.html", width: 1400, dark: false, scripts: true };
    let narrow = View { width: 360, ..report };
    let views = [
        report,
        narrow,
        View { dark: true, ..report },
        View { dark: true, ..narrow },
        View { scripts: false, ..report },
        View { page: "comparison.html", ..report },
        View { page: "comparison.html", dark: true, ..narrow },
    ];
    for view in views {
        let (seen, console) = view.open(browser, &site, &screenshots);
        is_sound(view, &seen, &console);
        assert!(screenshots.join(view.name() + ".png").metadata().unwrap().len() > 20_000, "{view:?}");
        if view.page == "report.html" {
            is_the_report(view, &seen);
        }
    }
    assert_eq!(site.foreign_hosts(), Vec::<String>::new(), "asked for from elsewhere");

    // The same eyes see it where a page does ask for something.
    let control = View { page: "control.html", ..report };
    let (seen, console) = control.open(browser, &site, &screenshots);
    assert_eq!(seen["resources"], serde_json::json!(["http://elsewhere.test/x.png"]));
    assert!(console.iter().any(|line| line.contains("seen")), "{console:?}");
    assert_eq!(site.foreign_hosts(), ["elsewhere.test"]);
}

fn is_the_report(view: View, seen: &Value) {
    let headings: Vec<&str> = seen["headings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let recommended =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample/recommendation.json"));
    let recommended: Value = serde_json::from_str(&recommended.unwrap()).unwrap();
    let answer =
        format!("Scale on batch size with averageValue {}", recommended["average_value"].as_str().unwrap());
    let expected = [
        answer.as_str(),
        "Where the SLO breaks",
        "What the HPA sees",
        "Why this number",
        "Over time",
        "The server",
        "Capacity planning",
        "Steps",
        "Can it be believed?",
        "Manifests",
        "Definitions",
        "The run",
    ];
    assert_eq!(headings, expected, "{view:?}");
    let titles = titles(seen);
    for title in [
        "Time to first token (TTFT)",
        "Time per output token (TPOT)",
        "Requests that break a limit",
        "Batch size per replica",
        "Queue per replica",
        "Length of a decode step",
        "Replicas for a load",
        "Cost of a million output tokens",
    ] {
        assert!(titles.contains(&title), "{view:?}: {titles:?}");
    }
    if !view.scripts {
        assert_eq!(
            (&seen["buttons"], &seen["sorted"], &seen["tip"]),
            (&0.into(), &Value::Null, &Value::Null)
        );
        return;
    }
    assert!(seen["buttons"].as_u64().unwrap() >= 2, "{view:?}");
    assert_eq!(seen["copied"], "copied", "{view:?}");
    let loads = |way: &str| {
        let rows = seen["sorted"][way].as_array().unwrap().iter();
        rows.map(|row| row.as_str().unwrap().trim_end_matches("/s").parse().unwrap()).collect::<Vec<f64>>()
    };
    let (up, down) = (loads("up"), loads("down"));
    assert!(up.len() >= 5 && up.is_sorted(), "{view:?}: {up:?}");
    assert!(down.is_sorted_by(|a, b| a >= b), "{view:?}: {down:?}");
    let tip = seen["tip"].as_str().unwrap_or_default();
    assert!(tip.contains("requests/s per replica") && tip.contains("p95"), "{view:?}: {tip}");
    assert_eq!(seen["left"], true, "{view:?}: the figures go when the pointer goes");
}
