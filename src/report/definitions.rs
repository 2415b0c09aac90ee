//! What the figures mean. Printed with them.

/// Term and definition.
pub(super) const DEFINITIONS: [(&str, &str); 13] = [
    (
        "latency",
        "counts from the scheduled send time in open loop, so a late client makes it longer, never shorter",
    ),
    ("schedule delay", "sent - scheduled: how late the client itself was"),
    (
        "TTFT",
        "time to first token: to the first event that carries a non-empty token; headers and comments do not count",
    ),
    (
        "ITL",
        "inter-token latency: each gap between consecutive token events; the tokens of one event share its gap, where the server says how many it holds",
    ),
    ("TPOT", "time per output token: (E2E - TTFT) / (output tokens - 1), by the server's token count"),
    ("E2E", "end to end: to the last event"),
    ("goodput", "requests within every latency limit / all attempts; failures are not good"),
    (
        "percentile",
        "nearest rank; for an SLO over all attempts, a failed one being infinitely late and one that the end of the run cut off at least as late as it had become; in tables over the successful",
    ),
    ("mean", "for an SLO over the successful, and only where at most 1 % of the attempts failed"),
    (
        "closed loop",
        "each client sends when its last answer has ended; after a failure it waits 100 ms, doubling to 1 s with each in a row",
    ),
    (
        "offered, achieved",
        "arrivals, and successful completions, inside the measured part of a step / its length",
    ),
    (
        "capacity",
        "the load of a replica at which the first limit breaks in a long run: of the server fitted to its own counters, else by client latencies; beside it stand its interval and which of them it is from",
    ),
    (
        "target",
        "the metric at the load at which the HPA must act, which leaves room for growth until a new replica serves, / (1 + tolerance), rounded down to milli-units, then checked in the HPA's own arithmetic",
    ),
];
