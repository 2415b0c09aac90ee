//! The first answer of a pod that is ready: only then does a replica carry load.

use reqwest::StatusCode;
use std::time::Duration;
use tokio::time::Instant;

/// How long a pod that is ready may take to answer.
const ANSWER: Duration = Duration::from_secs(120);
/// Time between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// Waits until a pod answers a request: TGI's own, else an OpenAI one. Gives whether it did.
pub(super) async fn wait(url: &str) -> bool {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
    let Ok(client) = client else { return false };
    let generate = serde_json::json!({ "inputs": "Hello", "parameters": { "max_new_tokens": 1 } });
    let start = Instant::now();
    while start.elapsed() < ANSWER {
        let answer = client.post(format!("{url}/generate")).json(&generate).send().await;
        match answer.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => return true,
            // Who may not ask is not answered, however long.
            Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return false,
            Ok(status) if status.is_client_error() && openai_completion(&client, url).await => return true,
            _ => tokio::time::sleep(AGAIN).await,
        }
    }
    false
}

async fn openai_completion(client: &reqwest::Client, url: &str) -> bool {
    let models =
        async { client.get(format!("{url}/v1/models")).send().await?.json::<serde_json::Value>().await };
    let Ok(models) = models.await else { return false };
    let body = serde_json::json!({ "model": models["data"][0]["id"], "prompt": "Hello", "max_tokens": 1 });
    let answer = client.post(format!("{url}/v1/completions")).json(&body).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}
