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

#[test]
fn the_golden_file_of_each_server_is_recognized_and_read() {
    let cases = [
        (
            "vllm",
            include_str!("../../../tests/fixtures/exposition/vllm-new.txt"),
            "queue_size 7, batch_size 59, kv_usage 0.75, token_events 161280, input_tokens 403200, \
             output_tokens 161280, output_requests 630, queue_seconds 78.75, queue_requests 630, \
             ttft_seconds 157.5, ttft_requests 630, e2e_seconds 4095, e2e_requests 630, successes 630",
        ),
        (
            "vllm",
            include_str!("../../../tests/fixtures/exposition/vllm-old.txt"),
            "queue_size 4, batch_size 31, kv_usage 0.8125, token_events 81920, input_tokens 204800, \
             output_tokens 81920, output_requests 320, queue_seconds 40, queue_requests 320, \
             ttft_seconds 80, ttft_requests 320, e2e_seconds 2080, e2e_requests 320, successes 320",
        ),
        (
            "sglang",
            include_str!("../../../tests/fixtures/exposition/sglang.txt"),
            "queue_size 6, batch_size 24, batch_tokens 61440, kv_usage 0.46875, token_events 51200, \
             input_tokens 128000, ttft_seconds 60, ttft_requests 200, e2e_seconds 1000, e2e_requests 200",
        ),
        (
            "llamacpp",
            include_str!("../../../tests/fixtures/exposition/llamacpp.txt"),
            "queue_size 46, batch_size 4, decode_count 1100, token_events 4096, input_tokens 8192",
        ),
        (
            "triton-trtllm",
            include_str!("../../../tests/fixtures/exposition/triton-trtllm.txt"),
            "queue_size 5, batch_size 27, kv_usage 0.4375",
        ),
        (
            "jetstream",
            include_str!("../../../tests/fixtures/exposition/jetstream.txt"),
            "queue_size 3, kv_usage 0.40625, queue_seconds 64, queue_requests 128",
        ),
        (
            "trtllm-serve",
            include_str!("../../../tests/fixtures/exposition/trtllm-serve.txt"),
            "queue_size 2, batch_size 12, kv_usage 0.5625",
        ),
    ];
    for (name, text, expected) in cases {
        let exposition = parse(text).unwrap();
        let recognized = Profile::recognize(&exposition).map(|profile| profile.name);
        assert_eq!(recognized.as_deref(), Some(name));
        let sample = read(name, text);
        let shown = |series: &Series| Some(format!("{} {}", series.column(), sample.get(*series)?));
        assert_eq!(Series::ALL.iter().filter_map(shown).collect::<Vec<_>>().join(", "), expected, "{name}");
    }
}
