use super::*;
use proptest::prelude::*;

fn spec(text: &str) -> TrafficSpec {
    text.parse().unwrap()
}

fn shape(text: &str) -> Traffic {
    Traffic::of_shape(&spec(text)).unwrap()
}

#[test]
fn every_form_is_read_and_printed_so_that_it_is_read_again() {
    for text in [
        "constant:20",
        "constant:20@90m",
        "diurnal:8..36@4h",
        "ramp:10..40@1h",
        "ramp:10..40..10@2h",
        "spike:12..30,24@2h",
        "bursts:18,sd=0.2,memory=60s@1h",
        "bursts:18",
        "trace:azure.csv*2",
        "trace:a b.jsonl",
        "rates:load.csv",
    ] {
        let found = spec(text);
        assert_eq!(spec(&found.to_string()), found, "{text}");
    }
}

#[test]
fn a_wrong_form_says_what_would_be_right() {
    for (text, says) in [
        ("", "constant:RATE"),
        ("20", "constant:RATE"),
        ("diurnl:8..36", "did you mean diurnal:?"),
        ("constant:", "rates above 0"),
        ("constant:-3", "rates above 0"),
        ("constant:NaN", "rates above 0"),
        ("constant:1e9", "up to 100000"),
        ("constant:20@10", "a number with a unit"),
        ("constant:20@10s", "a length from 1m to 168h"),
        ("diurnal:8@4h", "two rates, like diurnal:8..36@4h"),
        ("ramp:10@1h", "two rates"),
        ("ramp:10..x@1h", "not 'x'"),
        ("spike:12..30,24,20,20,20@10m", "room for the peaks"),
        ("bursts:18,sd=9", "sd from 0 to 2"),
        ("bursts:18,memory=0s", "a memory of at least 1s"),
        ("bursts:18,what=1", "not 'what'"),
        ("trace:", "the name of a file"),
        ("trace:a.csv*0", "a speed from 0.001 to 1000"),
        ("rates:", "the name of a file"),
    ] {
        let error = text.parse::<TrafficSpec>().unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn shapes_go_where_they_say() {
    let diurnal = shape("diurnal:8..36@4h");
    assert_eq!(diurnal.length(), Seconds(14_400.0));
    assert!((diurnal.mean().0 - 22.0).abs() < 1e-6 && (diurnal.peak().0 - 36.0).abs() < 1e-3);
    assert!((diurnal.rates[0] - 8.0).abs() < 1e-3);
    let ramp = shape("ramp:10..40..10@2h");
    assert!((ramp.mean().0 - 25.0).abs() < 1e-6 && (ramp.rates[1800] - 25.0).abs() < 0.01);
    let spike = shape("spike:12..30,24@2h");
    assert_eq!(
        [spike.rates[0], spike.rates[2400], spike.rates[4800], spike.rates[7199]],
        [12.0, 30.0, 24.0, 12.0]
    );
    let above = spike.rates.iter().filter(|rate| **rate > 29.0).count();
    assert!((450..460).contains(&above), "{above}");
}

#[test]
fn drawn_arrivals_have_the_rate_and_a_seed_gives_them_again() {
    let traffic = shape("constant:20@2h");
    let path = traffic.draw(3);
    let mean = path.arrivals.iter().sum::<f64>() / 7200.0;
    let variance = path.arrivals.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 7200.0;
    assert!((mean / 20.0 - 1.0).abs() < 0.01 && (variance / 20.0 - 1.0).abs() < 0.06, "{mean} {variance}");
    assert_eq!(path, traffic.draw(3));
    assert_ne!(path, traffic.draw(4));
}

#[test]
fn bursts_wander_around_their_mean_with_their_spread_and_memory() {
    let rates = shape("bursts:20,sd=0.35,memory=180s@168h").draw(1).rates;
    let logs: Vec<f64> = rates.iter().map(|rate| rate.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let covariance = |lag: usize| {
        logs.iter().zip(&logs[lag..]).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>()
            / (logs.len() - lag) as f64
    };
    assert!((rates.iter().sum::<f64>() / rates.len() as f64 / 20.0 - 1.0).abs() < 0.03);
    assert!((covariance(0).sqrt() - 0.35).abs() < 0.02, "{}", covariance(0).sqrt());
    assert!((covariance(180) / covariance(0) - (-1.0_f64).exp()).abs() < 0.06);
}

#[test]
fn a_trace_keeps_its_rate_and_how_much_it_scatters() {
    // Four requests at once, once a second on average: the variance over the mean of a second is four.
    let times = shape("constant:5@4h").draw(1).arrivals;
    let mut offsets = Vec::new();
    for (second, clumps) in times.iter().enumerate() {
        offsets.extend(std::iter::repeat_n(Seconds(second as f64 + 0.5), *clumps as usize * 4));
    }
    let traffic = Traffic::of_arrivals(&offsets, 1.0).unwrap();
    assert!((traffic.mean().0 / 20.0 - 1.0).abs() < 0.02);
    assert!((traffic.dispersion - 4.0).abs() < 0.2, "{}", traffic.dispersion);
    let drawn = traffic.draw(9).arrivals;
    let spread: f64 = drawn.iter().zip(&traffic.rates).map(|(n, rate)| (n - rate).powi(2)).sum();
    assert!((spread / drawn.iter().sum::<f64>() - 4.0).abs() < 0.3);
    let faster = Traffic::of_arrivals(&offsets, 2.0).unwrap();
    assert!((faster.mean().0 / traffic.mean().0 - 2.0).abs() < 0.01);
    assert!((faster.length().0 * 2.0 - traffic.length().0).abs() <= 2.0);
}

#[test]
fn a_series_of_rates_holds_each_until_the_next() {
    let series = [(100.0, 5.0), (160.0, 10.0), (220.0, 0.0)].map(|(t, r)| (Seconds(t), Rate(r)));
    let traffic = Traffic::of_rates(&series).unwrap();
    assert_eq!(traffic.length(), Seconds(180.0));
    assert_eq!(
        [traffic.rates[0], traffic.rates[59], traffic.rates[60], traffic.rates[179]],
        [5.0, 5.0, 10.0, 0.0]
    );
}

#[test]
fn what_is_no_traffic_is_refused_with_its_row() {
    let read = |rows: &[(f64, f64)]| {
        let series: Vec<_> = rows.iter().map(|(t, r)| (Seconds(*t), Rate(*r))).collect();
        Traffic::of_rates(&series).unwrap_err().to_string()
    };
    assert!(read(&[]).contains("no arrivals"));
    assert!(read(&[(0.0, 0.0), (60.0, 0.0)]).contains("no arrivals"));
    assert!(read(&[(0.0, 1.0), (0.0, 2.0)]).starts_with("row 2: the time 0 s is not after"));
    assert!(read(&[(60.0, 1.0), (0.0, 2.0)]).starts_with("row 2: the time 0 s is not after"));
    assert!(read(&[(f64::NAN, 1.0)]).starts_with("row 1: the time NaN s"));
    for rate in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert!(read(&[(0.0, rate), (60.0, 1.0)]).starts_with("row 1: the rate"), "{rate}");
    }
    assert!(read(&[(0.0, 1.0), (1e9, 1.0)]).contains("from 1 minute to 7 days"));
    assert_eq!(Traffic::of_arrivals(&[], 1.0), Err(TrafficError::Empty));
    assert!(matches!(Traffic::of_arrivals(&[Seconds(1.0)], 1.0), Err(TrafficError::Length(_))));
    assert!(matches!(shape("constant:20").scaled(1e6), Err(TrafficError::TooMuch(_))));
    assert_eq!(shape("constant:20").scaled(0.0), Err(TrafficError::Empty));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic_and_every_shape_has_finite_rates(text in "(constant|diurnal|ramp|spike|bursts|trace|rates)?:?[0-9.,@*=a-z]{0,24}") {
        let Ok(spec) = text.parse::<TrafficSpec>() else { return Ok(()) };
        let Some(traffic) = Traffic::of_shape(&spec) else { return Ok(()) };
        prop_assert!(traffic.rates.iter().all(|rate| (0.0..=HIGHEST).contains(rate)));
    }
}
