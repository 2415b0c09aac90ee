//! calibrate finds the metric value at which an LLM server must scale, and proves it.
//!
//! # The map
//!
//! Data flows one way, from what the user asked for to what the cluster gets:
//!
//! ```text
//! scenario -> plan -> drive --+
//!                   observe --+-> measurement -> record (disk)
//! record -> measurement -> analyze -> replay -> recommend -> report | manifest -> cluster
//!                             ^        ^ hpa
//!              batching ------+
//!              batching -> simulator (the same model behind HTTP)
//! cli, commands: the edge that puts the rooms together
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`units`] | newtypes with units, SLOs, signals |
//! | [`measurement`] | plain values: a request's outcome, a metric sample, a step boundary; the run's clock |
//! | [`scenario`] | what the user asked for: file, flags, validation |
//! | [`plan`] | steps, arrival times, request sizes, the next step of a search |
//! | [`drive`] | the load engine: workers, pacing, requests, stream decoding |
//! | [`observe`] | metric sources: scrapes by server profile, DCGM, NVML, Prometheus, Cloud Monitoring, metrics APIs |
//! | [`record`] | the run directory: format, recorder, reader |
//! | [`batching`] | the continuous-batching server as a state machine with its own clock |
//! | [`simulator`] | that server in real time behind TGI's HTTP |
//! | [`analyze`] | steps, latencies, SLO checks, capacity, validity |
//! | [`study`] | calibrations of simulated servers of known capacity: how far one can be trusted |
//! | [`hpa`] | the Kubernetes HPA controller's decision, exactly |
//! | [`replay`] | traffic, replicas, metrics on their way and the HPA in a closed loop; its optimum |
//! | [`recommend`] | a target per metric, with its terms and warnings; what is wrong with manifests |
//! | [`manifest`] | typed Kubernetes objects and their YAML; dashboards, setup steps |
//! | [`report`] | HTML, plots, Markdown, CSV, JSON, terminal summary |
//! | [`cluster`] | what speaks to the Kubernetes API: objects, permissions, apply and its undoing |
//! | [`cli`], [`commands`] | arguments, console, exit codes; one file per subcommand |
//!
//! # Invariants
//!
//! * A room imports only the rooms below it; `tests/rooms.rs` holds the table.
//! * `plan`, `batching`, `analyze`, `hpa`, `replay`, `recommend`, `manifest` and `study` are pure: no I/O, no
//!   clock, no ambient randomness. What they say can be derived again from a record, on any machine.
//! * Every scheduled request yields exactly one recorded outcome. Failures are outcomes.
//! * An absent metric is unknown, never 0.
//! * Only `cli` and `commands` print; only `main` ends the process.

pub mod analyze;
pub mod batching;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod drive;
pub mod hpa;
pub mod manifest;
pub mod measurement;
pub mod observe;
pub mod plan;
pub mod recommend;
pub mod record;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod simulator;
pub mod study;
pub mod units;
