//! A simulation for people and machines: summary, JSON, pictures, and a section of the report.

use super::chart::{BLUE, Chart, Figure, GREEN, GREY, Limit, Line, ORANGE, PURPLE, Style, VERMILION};
use super::{RenderedFile, ReportError, json};
use crate::hpa::{Range, Target};
use crate::replay::{Basis, Capacities, Conditions, Optimum, Plant, Played, Score, Traffic, Tried};
use crate::units::Replicas;
use askama::Template;
use plotters::style::RGBColor;
use serde_json::{Value, json};
use std::fmt::Write;

/// What `simulation.json` says it is.
const FORMAT: &str = "calibrate/simulation";
/// The version of its format.
const VERSION: u32 = 1;
/// The section of `report.html`, as a file of the run directory.
pub const SIMULATION: &str = "simulation.html";
/// Points of a line over time.
const POINTS: usize = 480;
/// Candidates in the picture that compares them.
const COMPARED: usize = 5;
const COLOURS: [RGBColor; COMPARED] = [BLUE, VERMILION, GREEN, ORANGE, PURPLE];

/// Everything that a simulation says.
#[derive(Debug)]
pub struct Simulation<'a> {
    /// The traffic as it was asked for.
    pub traffic_name: String,
    /// What its rates were multiplied by.
    pub scale: f64,
    /// The traffic.
    pub traffic: &'a Traffic,
    /// Metrics and starts.
    pub conditions: &'a Conditions,
    /// minReplicas and maxReplicas.
    pub range: Range,
    /// The replica.
    pub plant: &'a Plant,
    /// What each number of replicas carries.
    pub capacities: &'a Capacities,
    /// Standard deviation of the capacity, as a share of it.
    pub uncertainty: f64,
    /// Share of requests that may break a limit, 0 to 1.
    pub goal: f64,
    /// The candidates; the first is the one that pictures show.
    pub played: Vec<Played>,
    /// Replicas that a clairvoyant has serving, second by second, in the draw that pictures show.
    pub needed: Vec<usize>,
    /// The first candidate, checked.
    pub check: Option<Check>,
    /// What a search found.
    pub optimum: Option<Optimum>,
    /// Whether the run was made with the embedded simulated server.
    pub simulated: bool,
    /// What had to be assumed or left out.
    pub remarks: Vec<String>,
}

/// A replay beside discrete events in the same draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Check {
    /// How many draws.
    pub draws: u64,
    /// Share of requests that break a limit, 0 to 1: by the replay, by discrete events.
    pub violations: (f64, f64),
    /// GPU-hours, in the same order.
    pub gpu_hours: (f64, f64),
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

impl Simulation<'_> {
    fn holds(&self, score: &Score) -> bool {
        score.violations_upper <= self.goal
    }

    fn basis(&self) -> &'static str {
        match self.plant.basis() {
            Basis::Model => "the run's fitted server, played",
            Basis::Steps => "the means of the run's steps, approximate",
        }
    }

    fn load(&self) -> String {
        let scale = if self.scale == 1.0 { String::new() } else { format!(" x {}", self.scale) };
        let hours = self.traffic.length().0 / 3600.0;
        let (mean, peak) = (self.traffic.mean().0, self.traffic.peak());
        format!("{}{scale}: {mean:.1} on average, up to {peak}, {hours:.1} h", self.traffic_name)
    }

    fn replica(&self) -> String {
        let most = usize::try_from(self.range.max).unwrap_or(1);
        let each = self.capacities.total(most).0 / most as f64;
        format!(
            "{:.2} req/s alone, {each:.2} with {} (within {} violations); {}",
            self.capacities.total(1).0,
            Replicas(most as u32),
            percent(self.goal),
            self.basis()
        )
    }

    fn surroundings(&self) -> String {
        let Conditions { pipeline, start_up, .. } = self.conditions;
        format!(
            "start-up {} ± {:.0} %, scrape {}, lag {}, replicas {} to {}",
            start_up.mean,
            start_up.spread * 100.0,
            pipeline.scrape,
            pipeline.lag(),
            self.range.min,
            self.range.max
        )
    }
}

/// The result for a person at a terminal.
pub fn simulation_summary(simulation: &Simulation, colour: bool) -> String {
    let paint =
        |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut out = String::from("\n");
    let _ = writeln!(out, "traffic       {}", simulation.load());
    let _ = writeln!(out, "replica       {}", simulation.replica());
    let _ = writeln!(out, "cluster       {}", simulation.surroundings());
    if simulation.simulated {
        let _ =
            writeln!(out, "{}", paint("2", "measured on the embedded simulated server, not on a real one"));
    }
    let _ = writeln!(
        out,
        "\n  {:<19} {:<22} {:>10} {:>8} {:>7} {:>6} {:>7}",
        "target", "", "violations", "at most", "GPU-h", "cost", "changes"
    );
    for played in &simulation.played {
        let score = &played.score;
        let holds = simulation.holds(score);
        let line = format!(
            "{} {:<19} {:<22} {:>10} {:>8} {:>7.1} {:>5.2}x {:>5.1}/h  {}",
            if holds { "✓" } else { "✗" },
            played.candidate.name,
            shorten(&played.candidate.origin, 22),
            percent(score.violations),
            percent(score.violations_upper),
            score.gpu_hours,
            score.cost,
            score.changes_per_hour,
            played.steadiness
        );
        let _ = writeln!(out, "{}", if holds { line } else { paint("2", &line) });
    }
    let _ = writeln!(
        out,
        "\n  ✓ keeps violations within {} (at most: 90 % bound of the mean over {} draws); cost against a clairvoyant's;\n  the last column is what it does while the load stays the same",
        percent(simulation.goal),
        simulation.played.first().map_or(0, |played| played.score.draws)
    );
    if let Some(check) = &simulation.check {
        let _ = writeln!(out, "checked       {}", check.words());
    }
    if let Some(optimum) = &simulation.optimum {
        optimum_summary(&mut out, simulation, optimum, &paint);
    }
    for remark in &simulation.remarks {
        let _ = writeln!(out, "{} {remark}", paint("33", "note:"));
    }
    out
}

fn optimum_summary(
    out: &mut String,
    simulation: &Simulation,
    optimum: &Optimum,
    paint: &dyn Fn(&str, &str) -> String,
) {
    let code = if optimum.best.is_some() { "1;32" } else { "1;33" };
    for (place, reason) in optimum.reasons.iter().enumerate() {
        let _ = writeln!(
            out,
            "{}",
            if place == 0 { paint(code, &format!("\n{reason}")) } else { format!("  {reason}") }
        );
    }
    if !optimum.frontier.is_empty() {
        let _ = writeln!(
            out,
            "\n  cheaper is only what breaks more limits ({} candidates played):",
            optimum.played
        );
        for tried in spread(&optimum.frontier, 8) {
            let score = tried.score;
            let _ = writeln!(
                out,
                "  {} {:>8} {:>8} GPU-h {:>5.2}x {:>8} violations  {}",
                if tried.holds { "✓" } else { "✗" },
                tried.target.to_string(),
                format!("{:.1}", score.gpu_hours),
                score.cost,
                percent(score.violations),
                tried.tuning
            );
        }
    }
    if !optimum.sensitivity.is_empty() {
        let _ = writeln!(out, "\n  the best under other circumstances:");
        for other in &optimum.sensitivity {
            let _ = writeln!(
                out,
                "  {} {:<18} {:>8} violations {:>7.1} GPU-h",
                if simulation.holds(&other.score) { "✓" } else { "✗" },
                other.change,
                percent(other.score.violations),
                other.score.gpu_hours
            );
        }
    }
}

/// At most `most` of the items, evenly, the ends included.
fn spread<T>(items: &[T], most: usize) -> impl Iterator<Item = &T> {
    let n = items.len().min(most);
    (0..n).filter_map(move |i| items.get(i * (items.len() - 1) / n.saturating_sub(1).max(1)))
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}

impl Check {
    fn words(&self) -> String {
        format!(
            "with discrete events (draws: {}) the first comes to {} violations and {:.1} GPU-hours; the replay says {} and {:.1}",
            self.draws,
            percent(self.violations.1),
            self.gpu_hours.1,
            percent(self.violations.0),
            self.gpu_hours.0
        )
    }
}

/// The result for machines.
pub fn simulation_document(simulation: &Simulation) -> Value {
    let traffic = simulation.traffic;
    json!({
        "format": FORMAT,
        "version": VERSION,
        "traffic": {
            "spec": simulation.traffic_name,
            "scale": simulation.scale,
            "seconds": traffic.length(),
            "mean_rate": traffic.mean(),
            "peak_rate": traffic.peak(),
        },
        "conditions": simulation.conditions,
        "min_replicas": simulation.range.min,
        "max_replicas": simulation.range.max,
        "replica": {
            "basis": simulation.plant.basis(),
            "capacity_alone": simulation.capacities.total(1),
            "capacity_of_max_replicas": simulation.capacities.total(usize::try_from(simulation.range.max).unwrap_or(1)),
            "uncertainty": simulation.uncertainty,
        },
        "goal": simulation.goal,
        "candidates": simulation.played.iter().map(|played| candidate(simulation, played)).collect::<Vec<_>>(),
        "check": simulation.check.map(|check| json!({
            "draws": check.draws,
            "violations": { "replay": check.violations.0, "discrete": check.violations.1 },
            "gpu_hours": { "replay": check.gpu_hours.0, "discrete": check.gpu_hours.1 },
        })),
        "optimum": simulation.optimum,
        "remarks": simulation.remarks,
    })
}

fn candidate(simulation: &Simulation, played: &Played) -> Value {
    let metrics = played.candidate.scaler.metrics.iter().map(|metric| {
        let (kind, value) = match metric.target {
            Target::Value(value) => ("Value", value),
            Target::AverageValue(value) => ("AverageValue", value),
        };
        json!({
            "metric": metric.signal,
            "source": format!("{:?}", metric.source),
            "target_type": kind,
            "target": value.to_string(),
        })
    });
    json!({
        "name": played.candidate.name,
        "origin": played.candidate.origin,
        "metrics": metrics.collect::<Vec<_>>(),
        "holds": simulation.holds(&played.score),
        "score": played.score,
        "steady_load": played.steadiness,
    })
}

/// The files of a simulation.
///
/// # Errors
/// A picture that cannot be drawn.
pub fn render_simulation(simulation: &Simulation) -> Result<Vec<RenderedFile>, ReportError> {
    let charts = charts(simulation);
    let error = |plot| move |reason| ReportError::Plot { plot, reason };
    let figures = charts.iter().map(|(name, chart)| chart.figure().map_err(error(name)));
    let figures = figures.collect::<Result<Vec<Figure>, _>>()?;
    let mut files = vec![
        RenderedFile {
            path: "simulation.json".to_owned(),
            contents: json::pretty(&simulation_document(simulation)),
        },
        RenderedFile { path: SIMULATION.to_owned(), contents: section(simulation, &figures)? },
    ];
    for (name, chart) in charts {
        let contents = chart.file().map_err(error(name))?;
        files.push(RenderedFile { path: format!("plots/replay-{name}.svg"), contents });
    }
    Ok(files)
}

/// The pictures, with the names of their files.
fn charts(simulation: &Simulation) -> Vec<(&'static str, Chart)> {
    let Some(shown) = simulation.played.first() else { return Vec::new() };
    let of = format!(" ({})", shown.candidate.name);
    let mut charts = vec![
        ("load", load(shown)),
        ("replicas", replicas(simulation, shown, &of)),
        ("metric", metric(shown, &of)),
        ("violations", violations(simulation, shown, &of)),
        ("candidates", compared(simulation)),
    ];
    if let Some(optimum) = simulation.optimum.as_ref().filter(|optimum| optimum.frontier.len() > 1) {
        charts.push(("frontier", frontier(simulation, &optimum.frontier)));
    }
    charts
}

fn over_time(title: String, y_title: &str, lines: Vec<Line>, limits: Vec<Limit>) -> Chart {
    Chart { title, x_title: "minutes", y_title: y_title.to_owned(), lines, limits, ..Chart::default() }
}

/// Values of seconds as a line of means over equal stretches.
fn line(label: &str, colour: RGBColor, seconds: impl Iterator<Item = Option<f64>>) -> Line {
    let values: Vec<Option<f64>> = seconds.collect();
    let stretch = values.len().div_ceil(POINTS).max(1);
    let points = values.chunks(stretch).enumerate().map(|(i, chunk)| {
        let known: Vec<f64> = chunk.iter().filter_map(|value| *value).collect();
        let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        ((i * stretch) as f64 / 60.0, mean)
    });
    Line::new(label, colour, Style::Line, points.collect())
}

fn load(shown: &Played) -> Chart {
    let arrivals = line("arrivals", BLUE, shown.ticks.iter().map(|tick| Some(tick.arrivals)));
    over_time("Load over time".to_owned(), "requests/s", vec![arrivals], Vec::new())
}

fn replicas(simulation: &Simulation, shown: &Played, of: &str) -> Chart {
    let lines = vec![
        line("wanted by the HPA", ORANGE, shown.ticks.iter().map(|tick| Some(f64::from(tick.wanted)))),
        line("serving", BLUE, shown.ticks.iter().map(|tick| Some(tick.serving as f64))),
        line("a clairvoyant's", GREY, simulation.needed.iter().map(|needed| Some(*needed as f64))),
    ];
    over_time(format!("Replicas over time{of}"), "replicas", lines, Vec::new())
}

fn metric(shown: &Played, of: &str) -> Chart {
    let first = shown.candidate.scaler.metrics.first();
    let unit = first.map_or("", |metric| metric.signal.unit());
    let limit = first.and_then(|metric| match metric.target {
        Target::AverageValue(value) => Some(value.as_f64()),
        Target::Value(_) => None,
    });
    let tolerances = shown.candidate.scaler.tolerances;
    let limits = limit.map(|value| Limit {
        label: format!("target {value} and its tolerance"),
        colour: VERMILION,
        value,
        band: Some((value * (1.0 - tolerances.down), value * (1.0 + tolerances.up))),
    });
    let seen = line("as the HPA sees it", BLUE, shown.ticks.iter().map(|tick| tick.metric));
    over_time(format!("Metric per replica over time{of}"), unit, vec![seen], limits.into_iter().collect())
}

fn violations(simulation: &Simulation, shown: &Played, of: &str) -> Chart {
    let share = shown.broken.chunks(60).zip(shown.ticks.chunks(60)).map(|(broken, ticks)| {
        let arrivals: f64 = ticks.iter().map(|tick| tick.arrivals).sum();
        (arrivals > 0.0)
            .then(|| broken.iter().map(|broken| f64::from(*broken)).sum::<f64>() / arrivals * 100.0)
    });
    let points = share.enumerate().map(|(minute, share)| (minute as f64, share)).collect();
    let lines = vec![Line::new("of each minute", VERMILION, Style::Line, points)];
    let goal = simulation.goal * 100.0;
    let limit = Limit { label: format!("goal {goal:.1} % of all"), colour: GREEN, value: goal, band: None };
    over_time(format!("Requests that break a limit{of}"), "percent", lines, vec![limit])
}

fn compared(simulation: &Simulation) -> Chart {
    let lines = simulation.played.iter().zip(COLOURS).map(|(played, colour)| {
        let serving = played.ticks.iter().map(|tick| Some(tick.serving as f64));
        line(&played.candidate.name, colour, serving)
    });
    over_time("Serving replicas of the candidates".to_owned(), "replicas", lines.collect(), Vec::new())
}

fn frontier(simulation: &Simulation, frontier: &[Tried]) -> Chart {
    let points = frontier.iter().map(|tried| (tried.score.gpu_hours, Some(tried.score.violations * 100.0)));
    let goal = simulation.goal * 100.0;
    Chart {
        title: "Cost and violations".to_owned(),
        x_title: "GPU-hours",
        y_title: "violations, percent".to_owned(),
        lines: vec![Line::new("the best targets and behaviors", BLUE, Style::Dotted, points.collect())],
        limits: vec![Limit { label: format!("goal {goal:.1} %"), colour: GREEN, value: goal, band: None }],
        // No candidate is near 0.
        x_from_first: true,
        ..Chart::default()
    }
}

#[derive(Template)]
#[template(path = "simulation.html", config = "src/report/askama.toml")]
struct Section<'a> {
    load: String,
    replica: String,
    surroundings: String,
    goal: String,
    draws: usize,
    rows: Vec<Row>,
    check: Option<String>,
    reasons: &'a [String],
    sensitivity: Vec<[String; 4]>,
    remarks: &'a [String],
    figures: &'a [Figure],
}

struct Row {
    holds: bool,
    cells: [String; 8],
}

/// The section of `report.html`: a fragment that stands by itself, without scripts.
fn section(simulation: &Simulation, figures: &[Figure]) -> Result<String, ReportError> {
    let row = |played: &Played| Row {
        holds: simulation.holds(&played.score),
        cells: [
            played.candidate.name.clone(),
            played.candidate.origin.clone(),
            percent(played.score.violations),
            percent(played.score.violations_upper),
            format!("{:.1}", played.score.gpu_hours),
            format!("{:.2}", played.score.cost),
            format!("{:.1}", played.score.changes_per_hour),
            played.steadiness.to_string(),
        ],
    };
    let optimum = simulation.optimum.as_ref();
    let section = Section {
        load: simulation.load(),
        replica: simulation.replica(),
        surroundings: simulation.surroundings(),
        goal: percent(simulation.goal),
        draws: simulation.played.first().map_or(0, |played| played.score.draws),
        rows: simulation.played.iter().map(row).collect(),
        check: simulation.check.map(|check| check.words()),
        reasons: optimum.map(|optimum| optimum.reasons.as_slice()).unwrap_or_default(),
        sensitivity: optimum
            .iter()
            .flat_map(|optimum| &optimum.sensitivity)
            .map(|other| {
                let score = &other.score;
                let holds = if simulation.holds(score) { "holds" } else { "breaks the goal" };
                [
                    other.change.clone(),
                    percent(score.violations),
                    format!("{:.1}", score.gpu_hours),
                    holds.to_owned(),
                ]
            })
            .collect(),
        remarks: &simulation.remarks,
        figures,
    };
    section.render().map_err(|error| ReportError::Render { what: SIMULATION, reason: error.to_string() })
}
