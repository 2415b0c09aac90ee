use super::*;
use crate::measurement::Source;
use crate::observe::exposition::parse;
use crate::units::Seconds;

fn read(profile: &str, text: &str) -> Sample {
    let mut sample = Sample::new(Seconds(1.0), Seconds(0.01), Source::Server, 0);
    Profile::built_in(profile).unwrap().read(&parse(text).unwrap(), &mut sample);
    sample
}

fn values(profile: &str, text: &str) -> [Option<f64>; 3] {
    let sample = read(profile, text);
    [Series::QueueSize, Series::BatchSize, Series::KvUsage].map(|series| sample.get(series))
}

const TGI_3: &str = include_str!("../../../tests/fixtures/exposition/tgi-3.3.7.txt");
const TGI_2: &str = include_str!("../../../tests/fixtures/exposition/tgi-2.0.4.txt");

#[test]
fn the_recorded_body_of_a_real_tgi_router_is_read() {
    let sample = read("tgi", TGI_3);
    let expected = [
        (Series::QueueSize, 0.0),
        (Series::BatchSize, 0.0),
        (Series::DecodeCount, 6240.0),
        (Series::DecodeSeconds, 154.596_141_376_000_1),
        (Series::PrefillCount, 130.0),
        (Series::JoinedRequests, 931.0),
        (Series::TokenEvents, 93_100.0),
        (Series::InputTokens, 186_200.0),
        (Series::Successes, 931.0),
        (Series::ConcatBackpressure, 64.0),
        (Series::ConcatWaitExceeded, 12.0),
    ];
    for (series, value) in expected {
        assert_eq!(sample.get(series), Some(value), "{series:?}");
    }
    for series in [Series::ConcatChunking, Series::KvUsage, Series::FailedOverloaded, Series::GpuUtil] {
        assert_eq!(sample.get(series), None, "{series:?}");
    }
}

#[test]
fn version_2_of_tgi_without_help_lines_is_read_too() {
    let sample = read("tgi", TGI_2);
    assert!(sample.get(Series::QueueSize).is_some() && sample.get(Series::TokenEvents).is_some());
}

#[test]
fn a_cold_server_shows_nothing_and_not_zeros() {
    assert!(Profile::names().all(|name| read(name, "").is_empty()));
}

#[test]
fn every_tgi_since_0_9_shows_what_the_profile_reads_of_it() {
    let profile = Profile::built_in("tgi").unwrap();
    let names = include_str!("../../../tests/fixtures/exposition/tgi-metric-names.txt");
    let mut versions = 0;
    for line in names.lines().filter(|line| !line.starts_with('#')) {
        let (version, names) = line.split_once(' ').unwrap();
        let names: Vec<&str> = names.split(' ').collect();
        for series in profile.series() {
            // Skipped tokens came with 1.4, chunking and the KV budget with 2.3.
            let later = matches!(series, Series::TokenEvents | Series::KvUsage);
            let metric = profile.metrics_of(series).next().unwrap();
            let metric = metric.trim_end_matches("_sum").trim_end_matches("_count");
            let shown =
                names.contains(&metric) || names.contains(&profile.metrics_of(series).next().unwrap());
            assert!(shown || later && version < "1.4", "{version}: {metric}");
        }
        versions += 1;
    }
    assert_eq!(versions, 11);
}

#[test]
fn the_engines_of_vllm_add_up_and_the_old_name_of_the_kv_gauge_is_known() {
    let text = |kv: &str| {
        let series = |name: &str, values: [f64; 2]| {
            let line =
                |(i, v): (usize, f64)| format!("{name}{{engine=\"{i}\",model_name=\"m,\\\"x\\\"\"}} {v}\n");
            values.into_iter().enumerate().map(line).collect::<String>()
        };
        series("vllm:num_requests_waiting", [3.0, 4.0])
            + &series("vllm:num_requests_running", [10.0, 20.0])
            + &series(kv, [0.5, 0.75])
    };
    let expected = [Some(7.0), Some(30.0), Some(0.625)];
    assert_eq!(values("vllm", &text("vllm:kv_cache_usage_perc")), expected);
    assert_eq!(values("vllm", &text("vllm:gpu_cache_usage_perc")), expected);
    let both = text("vllm:kv_cache_usage_perc") + "vllm:gpu_cache_usage_perc{engine=\"0\"} 0.1\n";
    assert_eq!(values("vllm", &both), expected, "the new name wins");
    let aborted = "vllm:request_success_total{finished_reason=\"abort\"} 5\n\
        vllm:request_success_total{finished_reason=\"stop\"} 7\nvllm:request_success_total{finished_reason=\"length\"} 1\n";
    assert_eq!(read("vllm", aborted).get(Series::Successes), Some(8.0));
}

#[test]
fn the_other_servers_are_read_by_their_documented_names() {
    let sglang = "sglang:num_queue_reqs{model_name=\"m\"} 2\nsglang:num_running_reqs{model_name=\"m\"} 9\n\
        sglang:token_usage{model_name=\"m\"} 0.4\n";
    let llama = "# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 46\nllamacpp:requests_processing 4\n";
    let triton = "nv_trt_llm_request_metrics{model=\"t\",request_type=\"waiting\",version=\"1\"} 5\n\
        nv_trt_llm_request_metrics{model=\"t\",request_type=\"active\",version=\"1\"} 12\n\
        nv_trt_llm_request_metrics{model=\"t\",request_type=\"scheduled\",version=\"1\"} 7\n\
        nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"t\"} 0.25\n";
    let jetstream = "jetstream_prefill_backlog_size{id=\"h\"} 3.0\n\
        jetstream_slots_used_percentage{id=\"h\",idx=\"0\"} 0.5\njetstream_slots_used_percentage{id=\"h\",idx=\"1\"} 0.25\n";
    let trtllm =
        "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n";
    for (name, text, expected) in [
        ("sglang", sglang, [Some(2.0), Some(9.0), Some(0.4)]),
        ("llamacpp", llama, [Some(46.0), Some(4.0), None]),
        ("triton-trtllm", triton, [Some(5.0), Some(7.0), Some(0.25)]),
        ("jetstream", jetstream, [Some(3.0), None, Some(0.375)]),
        ("trtllm-serve", trtllm, [Some(1.0), Some(2.0), Some(0.5)]),
        ("tgi", "tgi_queue_size 1\ntgi_batch_current_size 2\n", [Some(1.0), Some(2.0), None]),
    ] {
        assert_eq!(values(name, text), expected, "{name}");
        let recognized = Profile::recognize(&parse(text).unwrap()).map(|profile| profile.name);
        assert_eq!(recognized.as_deref(), Some(name));
    }
    assert_eq!(Profile::recognize(&parse("go_goroutines 7\n").unwrap()), None);
}

#[test]
fn promql_follows_from_the_profile() {
    let vllm = Profile::built_in("vllm").unwrap();
    assert_eq!(
        vllm.promql(Series::KvUsage, "namespace=\"a\"", "pod").unwrap(),
        "avg by (pod) (vllm:kv_cache_usage_perc{namespace=\"a\"}) or \
         avg by (pod) (vllm:gpu_cache_usage_perc{namespace=\"a\"})"
    );
    assert_eq!(
        vllm.promql(Series::Successes, "", "pod").unwrap(),
        "sum by (pod) (vllm:request_success_total{finished_reason=~\"stop|length\"})"
    );
    let tgi = Profile::built_in("tgi").unwrap();
    assert_eq!(
        tgi.promql(Series::KvUsage, "", "pod").unwrap(),
        "sum by (pod) (tgi_batch_current_max_tokens) / sum by (pod) (tgi_batch_max_total_tokens)"
    );
    assert_eq!(tgi.promql(Series::GpuUtil, "", "pod"), None);
    assert_eq!(
        tgi.promql_time(Series::QueueSize, "a=\"b\"", "pod").unwrap(),
        "max by (pod) (timestamp(tgi_queue_size{a=\"b\"}))"
    );
}

#[test]
fn a_wrong_profile_says_what_is_wrong_with_it() {
    let head = "version: 1\nname: x\ndescription: x\nrecognized-by: []\n";
    let fine = "apis: [chat]\nseries: {queue_size: [{metric: a}]}\n";
    assert!(Profile::parse("x.yaml", &format!("{head}{fine}")).is_ok());
    for (text, said) in [
        (format!("{head}{fine}colour: red\n"), "colour"),
        (format!("{head}apis: [chat]\nseries: {{queue_size: [{{metric: a, labls: {{}}}}]}}\n"), "labls"),
        (format!("{head}apis: [chat]\nseries: {{queue_sise: [{{metric: a}}]}}\n"), "did you mean queue_size"),
        (format!("{head}apis: [chat]\nseries: {{kv_usage: [{{metric: a}}]}}\n"), "neither queue_size"),
        (format!("{head}apis: [chat]\nseries: {{queue_size: []}}\n"), "no readings"),
        (format!("{head}apis: [chat]\nseries: {{queue_size: [{{metric: 'a{{b=1}}'}}]}}\n"), "without braces"),
        (format!("{head}apis: [chat]\nseries: {{queue_size: [{{metric: a, scale: 0}}]}}\n"), "scale"),
        (format!("{head}apis: [grpc]\nseries: {{queue_size: [{{metric: a}}]}}\n"), "'grpc'"),
        (format!("{head}apis: []\nseries: {{queue_size: [{{metric: a}}]}}\n"), "apis is empty"),
        (head.replace("version: 1", "version: 9") + fine, "its version is 9"),
        (String::new(), "x.yaml"),
    ] {
        let message = Profile::parse("x.yaml", &text).unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("x.yaml"), "{said}: {message}");
    }
    let message = Profile::built_in("vlm").unwrap_err().to_string();
    assert!(message.contains("did you mean vllm?") && message.contains("sglang"), "{message}");
}

/// What each golden file shows, by the profile of its server.
#[test]
fn the_golden_file_of_each_server_is_recognized_and_read() {
    use Series::{
        BatchSize, BatchTokens, DecodeCount, E2eRequests, E2eSeconds, InputTokens, KvUsage, OutputRequests,
        OutputTokens, QueueRequests, QueueSeconds, QueueSize, Successes, TokenEvents, TtftRequests,
        TtftSeconds,
    };
    let cases: [(&str, &str, &[(Series, f64)]); 7] = [
        (
            "vllm",
            include_str!("../../../tests/fixtures/exposition/vllm-new.txt"),
            &[
                (QueueSize, 7.0),
                (BatchSize, 59.0),
                (KvUsage, 0.75),
                (InputTokens, 403_200.0),
                (TokenEvents, 161_280.0),
                (OutputTokens, 161_280.0),
                (OutputRequests, 630.0),
                (QueueSeconds, 78.75),
                (QueueRequests, 630.0),
                (TtftSeconds, 157.5),
                (TtftRequests, 630.0),
                (E2eSeconds, 4095.0),
                (E2eRequests, 630.0),
                (Successes, 630.0),
            ],
        ),
        (
            "vllm",
            include_str!("../../../tests/fixtures/exposition/vllm-old.txt"),
            &[
                (QueueSize, 4.0),
                (BatchSize, 31.0),
                (KvUsage, 0.8125),
                (InputTokens, 204_800.0),
                (TokenEvents, 81_920.0),
                (OutputTokens, 81_920.0),
                (OutputRequests, 320.0),
                (QueueSeconds, 40.0),
                (QueueRequests, 320.0),
                (TtftSeconds, 80.0),
                (TtftRequests, 320.0),
                (E2eSeconds, 2080.0),
                (E2eRequests, 320.0),
                (Successes, 320.0),
            ],
        ),
        (
            "sglang",
            include_str!("../../../tests/fixtures/exposition/sglang.txt"),
            &[
                (QueueSize, 6.0),
                (BatchSize, 24.0),
                (BatchTokens, 61_440.0),
                (KvUsage, 0.46875),
                (InputTokens, 128_000.0),
                (TokenEvents, 51_200.0),
                (TtftSeconds, 60.0),
                (TtftRequests, 200.0),
                (E2eSeconds, 1000.0),
                (E2eRequests, 200.0),
            ],
        ),
        (
            "llamacpp",
            include_str!("../../../tests/fixtures/exposition/llamacpp.txt"),
            &[
                (QueueSize, 46.0),
                (BatchSize, 4.0),
                (InputTokens, 8192.0),
                (TokenEvents, 4096.0),
                (DecodeCount, 1100.0),
            ],
        ),
        (
            "triton-trtllm",
            include_str!("../../../tests/fixtures/exposition/triton-trtllm.txt"),
            &[(QueueSize, 5.0), (BatchSize, 27.0), (KvUsage, 0.4375)],
        ),
        (
            "jetstream",
            include_str!("../../../tests/fixtures/exposition/jetstream.txt"),
            &[(QueueSize, 3.0), (KvUsage, 0.40625), (QueueSeconds, 64.0), (QueueRequests, 128.0)],
        ),
        (
            "trtllm-serve",
            include_str!("../../../tests/fixtures/exposition/trtllm-serve.txt"),
            &[(QueueSize, 2.0), (BatchSize, 12.0), (KvUsage, 0.5625)],
        ),
    ];
    for (name, text, expected) in cases {
        let exposition = parse(text).unwrap();
        let recognized = Profile::recognize(&exposition).map(|profile| profile.name);
        assert_eq!(recognized.as_deref(), Some(name));
        let sample = read(name, text);
        let shown: Vec<(Series, f64)> =
            Series::ALL.iter().filter_map(|series| Some((*series, sample.get(*series)?))).collect();
        let mut expected = expected.to_vec();
        expected.sort_by_key(|(series, _)| *series as usize);
        assert_eq!(shown, expected, "{name}");
    }
}
