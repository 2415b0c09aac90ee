//! One request attempt from its scheduled send time to its last event.

use super::StepIndex;
use crate::units::Seconds;
use serde::{Deserialize, Serialize};

/// Which part of its step a request was scheduled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before the step is measured.
    WarmUp,
    /// While the step is measured.
    Hold,
}

/// Why an attempt failed. Each kind is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// No connection could be made.
    Connect,
    /// This machine had no local port or file descriptor left for a connection. The client's doing.
    ClientLimit,
    /// Nothing arrived for longer than the read timeout.
    Timeout,
    /// The server refused for overload: HTTP 429, or the same said inside a stream.
    Overloaded,
    /// Another HTTP 4xx, or a validation error said inside a stream.
    ClientError,
    /// HTTP 5xx or 424.
    ServerError,
    /// An error event inside a stream that had been accepted.
    StreamError,
    /// The stream ended, or the connection was lost, before the last event.
    Truncated,
    /// The answer could not be understood.
    Malformed,
    /// calibrate itself failed on it: a bug, told of in a remark.
    ClientFault,
    /// The run ended before the request did. The client's doing, not the server's.
    Stopped,
}

impl FailureKind {
    /// All kinds, in the order of reports.
    pub const ALL: [FailureKind; 11] = [
        FailureKind::Connect,
        FailureKind::ClientLimit,
        FailureKind::Timeout,
        FailureKind::Overloaded,
        FailureKind::ClientError,
        FailureKind::ServerError,
        FailureKind::StreamError,
        FailureKind::Truncated,
        FailureKind::Malformed,
        FailureKind::ClientFault,
        FailureKind::Stopped,
    ];

    /// The word used in files.
    pub const fn word(self) -> &'static str {
        match self {
            FailureKind::Connect => "connect",
            FailureKind::ClientLimit => "client-limit",
            FailureKind::Timeout => "timeout",
            FailureKind::Overloaded => "overloaded",
            FailureKind::ClientError => "client-error",
            FailureKind::ServerError => "server-error",
            FailureKind::StreamError => "stream-error",
            FailureKind::Truncated => "truncated",
            FailureKind::Malformed => "malformed",
            FailureKind::ClientFault => "client-fault",
            FailureKind::Stopped => "stopped",
        }
    }
}

/// One request attempt: one row of `requests.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestOutcome {
    /// Its number, from 0 in the order of scheduling.
    pub id: u64,
    /// The step it was scheduled in.
    pub step: StepIndex,
    /// The phase it was scheduled in.
    pub phase: Phase,
    /// When it was meant to be sent. In closed loop: when its worker was free.
    pub scheduled: Seconds,
    /// When it was handed to the HTTP client. `None`: never sent.
    pub sent: Option<Seconds>,
    /// When the first event with a non-empty token arrived.
    pub first_token: Option<Seconds>,
    /// When the last event arrived (also of a failed stream, its error event).
    pub last_token: Option<Seconds>,
    /// When the attempt was over, however it ended. `None`: not recorded.
    pub ended: Option<Seconds>,
    /// Prompt tokens: the server's own count where it gave one, else the number asked for.
    pub input_tokens: Option<u32>,
    /// Output tokens by the server's own count. `None` where it gave none.
    pub output_tokens: Option<u32>,
    /// Events that carried at least one token.
    pub chunks: u32,
    /// HTTP status. `None`: no answer.
    pub status: Option<u16>,
    /// Why it failed. `None`: it succeeded.
    pub error: Option<FailureKind>,
    /// The replica that answered, where known.
    pub replica: Option<u32>,
}

impl RequestOutcome {
    /// Whether it succeeded.
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
    }

    /// How late it was sent: `sent - scheduled`.
    pub fn schedule_delay(&self) -> Option<Seconds> {
        Some(self.sent? - self.scheduled)
    }

    /// Time to first token, from the scheduled send time.
    pub fn ttft(&self) -> Option<Seconds> {
        Some(self.first_token? - self.scheduled)
    }

    /// End-to-end latency, from the scheduled send time to the last event.
    pub fn e2e(&self) -> Option<Seconds> {
        Some(self.last_token? - self.scheduled)
    }

    /// Time per output token: (E2E - TTFT) / (output tokens - 1). `None` below two tokens.
    pub fn tpot(&self) -> Option<Seconds> {
        let gaps = self.output_tokens?.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.e2e()? - self.ttft()?) / f64::from(gaps))
    }

    /// Normalized time per output token: E2E / output tokens.
    pub fn ntpot(&self) -> Option<Seconds> {
        let tokens = self.output_tokens.filter(|tokens| *tokens > 0)?;
        Some(self.e2e()? / f64::from(tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> RequestOutcome {
        RequestOutcome {
            id: 0,
            step: 0,
            phase: Phase::Hold,
            scheduled: Seconds(10.0),
            sent: Some(Seconds(10.5)),
            first_token: Some(Seconds(11.0)),
            last_token: Some(Seconds(13.0)),
            ended: Some(Seconds(13.0)),
            input_tokens: Some(7),
            output_tokens: Some(5),
            chunks: 5,
            status: Some(200),
            error: None,
            replica: None,
        }
    }

    #[test]
    fn latencies_count_from_the_scheduled_send_time() {
        let request = outcome();
        assert_eq!(request.schedule_delay(), Some(Seconds(0.5)));
        assert_eq!(request.ttft(), Some(Seconds(1.0)));
        assert_eq!(request.e2e(), Some(Seconds(3.0)));
        assert_eq!(request.tpot(), Some(Seconds(0.5)));
        assert_eq!(request.ntpot(), Some(Seconds(0.6)));
    }

    #[test]
    fn tpot_needs_two_tokens_by_the_servers_count() {
        assert_eq!(RequestOutcome { output_tokens: Some(1), ..outcome() }.tpot(), None);
        assert_eq!(RequestOutcome { output_tokens: None, ..outcome() }.tpot(), None);
    }
}
