//! What the sources besides the direct scrape say: how much of it there is, whether it agrees, how late
//! it is, and how seldom the GPU's exporter looks.

use super::super::lag::{SEEN_BY_HPA, by_source, lags, pairs, value_at};
use super::super::{Measured, StepAnalysis, ValidityCheck, Verdict};
use super::check;
use crate::measurement::{Sample, Series, Source};
use crate::units::Seconds;

/// Means that are further apart than this part of the larger one, and than so much, disagree.
const APART_SHARE: f64 = 0.25;
const APART_LEAST: f64 = 1.0;
/// Fewer points say nothing of a mean.
const POINTS_LEAST: usize = 5;
/// A GPU whose gauges change no oftener than this is collected more seldom than it is scraped.
const SELDOM: f64 = 5.0;
/// So many changes show a period.
const CHANGES_LEAST: usize = 4;

/// The checks that apply: none where everything was scraped directly.
pub(super) fn all(measured: &Measured, steps: &[StepAnalysis]) -> Vec<ValidityCheck> {
    let mut checks = Vec::new();
    checks.extend(amounts(measured, steps));
    checks.extend(agreement(measured));
    checks.extend(lateness(measured));
    checks.extend(gpu_collection(measured));
    checks
}

/// The sources between the server and an HPA, in this run.
fn indirect(samples: &[Sample]) -> Vec<Source> {
    let found = by_source(samples).into_keys();
    found.filter(|source| !matches!(source, Source::Server | Source::Gpu | Source::Nvml)).collect()
}

fn amounts(measured: &Measured, steps: &[StepAnalysis]) -> Option<ValidityCheck> {
    let sources = indirect(measured.samples);
    if sources.is_empty() {
        return None;
    }
    let mut verdict = Verdict::Valid;
    let counts = by_source(measured.samples);
    let said = sources.iter().map(|source| {
        let mut times: Vec<f64> = measured
            .samples
            .iter()
            .filter(|s| s.source == *source && s.replica == 0)
            .map(|s| s.time.0)
            .collect();
        times.sort_by(f64::total_cmp);
        times.dedup();
        let bare = steps.iter().filter(|step| {
            let inside = |time: &&f64| (step.mark.hold_start.0..step.mark.end.0).contains(*time);
            times.iter().filter(inside).count() < 2
        });
        let bare = bare.count();
        if bare > 0 {
            verdict = Verdict::Remark;
        }
        let (n, replicas) = counts.get(source).map_or((0, 0), |(n, replicas)| (*n, replicas.len()));
        let period = times.windows(2).map(|w| w[1] - w[0]).sum::<f64>() / (times.len().max(2) - 1) as f64;
        let every = if times.len() > 1 { format!(", one every {}", Seconds(period)) } else { String::new() };
        format!(
            "{} {n} of {replicas} replicas{every}, fewer than two in {bare} of {} steps",
            source.word(),
            steps.len()
        )
    });
    let said = said.collect::<Vec<_>>().join("; ");
    Some(check("samples by way of others", verdict, said))
}

/// Do the sources that say when their values were true show what the direct scrape showed then?
fn agreement(measured: &Measured) -> Option<ValidityCheck> {
    let (mut told, mut apart) = (Vec::new(), false);
    for source in [Source::Prometheus, Source::CloudMonitoring, Source::Nvml] {
        for series in [Series::QueueSize, Series::BatchSize, Series::KvUsage, Series::GpuUtil] {
            let (mut here, mut there) = (Vec::new(), Vec::new());
            for (direct, _) in pairs(measured.samples, source, series) {
                let other = measured.samples.iter().filter(|s| s.source == source);
                for (time, value) in other.filter_map(|s| Some((s.time.0, s.get(series)?))) {
                    if let Some(shown) = value_at(&direct, time) {
                        here.push(shown);
                        there.push(value);
                    }
                }
            }
            if here.len() < POINTS_LEAST {
                continue;
            }
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let (direct, other) = (mean(&here), mean(&there));
            let least = if series == Series::KvUsage { APART_LEAST / 100.0 } else { APART_LEAST };
            apart |= (direct - other).abs() > (APART_SHARE * direct.abs().max(other.abs())).max(least);
            told.push(format!(
                "{} {}: mean {other:.2} where the direct scrape has {direct:.2}, over {} samples",
                source.word(),
                series.column(),
                here.len()
            ));
        }
    }
    if told.is_empty() {
        return None;
    }
    let hint = if apart { "; is it the same server, in the same unit?" } else { "" };
    let verdict = if apart { Verdict::Remark } else { Verdict::Valid };
    Some(check("agreement of the sources", verdict, format!("{}{hint}", told.join("; "))))
}

fn lateness(measured: &Measured) -> Option<ValidityCheck> {
    if !measured.samples.iter().any(|sample| SEEN_BY_HPA.contains(&sample.source)) {
        return None;
    }
    let found = lags(measured.samples);
    let said = found.iter().map(|lag| {
        let age = lag.age;
        format!(
            "{} {} {} late ({} to {}, n {}, correlation {:.2})",
            lag.source.word(),
            lag.series,
            age.lag,
            age.low,
            age.high,
            age.n,
            age.correlation
        )
    });
    let said = said.collect::<Vec<_>>().join("; ");
    let name = "lag of what an HPA sees";
    Some(if said.is_empty() {
        let detail = "not known: too few samples by way of others, a load too even to tell, or a lag of more than two minutes";
        check(name, Verdict::Remark, detail.to_owned())
    } else {
        check(name, Verdict::Valid, said)
    })
}

/// How often the gauges of a GPU change, in seconds: the period of its exporter, where that is longer
/// than the scrape's. `None`: too few changes to tell.
fn collection_period(samples: &[&Sample]) -> Option<f64> {
    let shown = |sample: &Sample| {
        [Series::GpuUtil, Series::GpuEngineActive, Series::GpuSmActive, Series::GpuMemory]
            .map(|series| sample.get(series))
    };
    let changes: Vec<f64> =
        samples.windows(2).filter(|w| shown(w[0]) != shown(w[1])).map(|w| w[1].time.0).collect();
    let mut gaps: Vec<f64> = changes.windows(2).map(|w| w[1] - w[0]).collect();
    if gaps.len() + 1 < CHANGES_LEAST {
        return None;
    }
    gaps.sort_by(f64::total_cmp);
    Some(gaps[gaps.len() / 2])
}

fn gpu_collection(measured: &Measured) -> Option<ValidityCheck> {
    let mut of_first: Vec<&Sample> =
        measured.samples.iter().filter(|s| s.source == Source::Gpu && s.replica == 0).collect();
    of_first.sort_by(|a, b| a.time.0.total_cmp(&b.time.0));
    let period = collection_period(&of_first).filter(|period| *period >= SELDOM)?;
    let detail = format!(
        "the GPU's gauges change about every {}, so most scrapes repeat one: its exporter collects that seldom \
         (DCGM_EXPORTER_INTERVAL, 30000 ms by default); hold steps for several of these, or collect oftener",
        Seconds(period)
    );
    Some(check("collection of the GPU's gauges", Verdict::Remark, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::capacity::tests::step;
    use crate::units::Replicas;
    use std::collections::BTreeMap;

    fn sample(source: Source, time: f64, series: Series, value: f64) -> Sample {
        let mut sample = Sample::new(Seconds(time), Seconds(0.01), source, 0);
        sample.set(series, Some(value));
        sample
    }

    fn checks(samples: &[Sample]) -> Vec<(&'static str, Verdict, String)> {
        let gaps = BTreeMap::new();
        let measured = Measured { requests: &[], samples, events: &[], gaps: &gaps, replicas: Replicas(1) };
        let steps = [step(0, 1.0, Some(0.1), 1.0)];
        all(&measured, &steps).into_iter().map(|check| (check.name, check.verdict, check.detail)).collect()
    }

    #[test]
    fn what_was_scraped_directly_alone_has_nothing_to_be_compared_with() {
        let samples: Vec<Sample> =
            (0..60).map(|s| sample(Source::Server, f64::from(s), Series::QueueSize, 1.0)).collect();
        assert_eq!(checks(&samples), []);
    }

    #[test]
    fn few_samples_of_a_step_are_told_of() {
        let mut samples: Vec<Sample> =
            (0..60).map(|s| sample(Source::Gpu, f64::from(s), Series::GpuUtil, f64::from(s % 7))).collect();
        samples.extend([5.0, 65.0].map(|time| sample(Source::CloudMonitoring, time, Series::GpuUtil, 3.0)));
        let (name, verdict, detail) = checks(&samples).remove(0);
        assert_eq!((name, verdict), ("samples by way of others", Verdict::Remark));
        assert!(detail.contains("cloud-monitoring 2 of 1 replicas, one every 60.0 s"), "{detail}");
        assert!(detail.contains("fewer than two in 1 of 1 steps"), "{detail}");
    }

    #[test]
    fn a_source_of_another_unit_does_not_agree() {
        let judge = |scale: f64| {
            let gpu = |s: i32| f64::from(40 + s % 20);
            let mut samples: Vec<Sample> =
                (0..60).map(|s| sample(Source::Gpu, f64::from(s), Series::GpuUtil, gpu(s))).collect();
            samples.extend((1..6).map(|i| {
                sample(Source::CloudMonitoring, f64::from(i * 10), Series::GpuUtil, gpu(i * 10) * scale)
            }));
            checks(&samples).into_iter().find(|check| check.0 == "agreement of the sources").unwrap().1
        };
        assert_eq!(judge(1.0), Verdict::Valid);
        assert_eq!(judge(0.01), Verdict::Remark);
    }

    #[test]
    fn an_exporter_that_collects_every_half_minute_is_recognized() {
        let judge = |period: u32| {
            let gauge =
                |s: u32| sample(Source::Gpu, f64::from(s), Series::GpuUtil, f64::from(s / period * 37 % 101));
            let samples: Vec<Sample> = (0..200).map(gauge).collect();
            checks(&samples)
        };
        let (name, _, detail) = judge(30).remove(0);
        assert_eq!(name, "collection of the GPU's gauges");
        assert!(detail.contains("about every 30.0 s"), "{detail}");
        assert_eq!(judge(1), []);
    }
}
