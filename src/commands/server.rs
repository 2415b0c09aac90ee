//! What kind of server a target is: named by the user, or recognized by what it shows.

use super::run::access::Access;
use crate::cli::{Exit, Failure, OrExit};
use crate::drive::{self, DriveError, Target};
use crate::observe::{Profile, exposition_at};
use crate::scenario::{Api, Scenario};
use anyhow::{Context, anyhow};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// How long an address may take to answer that a server of another kind would have its metrics at.
const ELSEWHERE: Duration = Duration::from_secs(3);

/// The profile of the server at `target`, and what the user should know of the choice. One that shows
/// nothing known is taken for TGI, which shows no metric at all before its first request.
pub(super) async fn profile(
    scenario: &Scenario,
    target: &Target,
    access: &Access,
    simulated: bool,
) -> Result<(Profile, Option<String>), Failure> {
    let tgi = || Profile::built_in("tgi").or_exit(Exit::Usage);
    if simulated {
        return Ok((tgi()?, None));
    }
    if scenario.server != "auto" {
        return Ok((named(&scenario.server)?, None));
    }
    if let Some(profile) = by_metrics(scenario, target, access).await {
        return Ok((profile, None));
    }
    // Only TGI answers to /info so.
    let known = match drive::info(target).await {
        Ok(info) => info.get("max_concurrent_requests").is_some(),
        // That nothing answers is said where load is to be sent.
        Err(error) => matches!(error, DriveError::Unreachable { .. }),
    };
    let remark = (!known).then(|| {
        let names = Profile::names().collect::<Vec<_>>().join(", ");
        format!(
            "neither its metrics nor /info show a known kind of server, so it is taken for TGI; name its kind with \
             --server: {names}, or a file"
        )
    });
    Ok((tgi()?, remark))
}

/// The profile of the first address whose metrics are of a known kind: the user's, the target's, then
/// wherever a known kind of server has its own.
async fn by_metrics(scenario: &Scenario, target: &Target, access: &Access) -> Option<Profile> {
    let own = target.url("");
    let first = scenario.metrics_urls.first().cloned().unwrap_or_else(|| target.url("metrics").to_string());
    let recognized = async |url: &str| {
        let shown = exposition_at(&access.metrics(url, &own), url).await;
        shown.ok().and_then(|exposition| Profile::recognize(&exposition))
    };
    if let Some(profile) = recognized(&first).await {
        return Some(profile);
    }
    let known = Profile::names().filter_map(|name| Profile::built_in(name).ok());
    let elsewhere: BTreeSet<String> =
        known.map(|profile| metrics_of(target, &profile).to_string()).filter(|url| *url != first).collect();
    for url in elsewhere.iter().filter(|_| scenario.metrics_urls.is_empty()) {
        let found = tokio::time::timeout(ELSEWHERE, recognized(url)).await;
        if let Ok(Some(profile)) = found {
            return Some(profile);
        }
    }
    None
}

/// Where a server of a kind has its metrics.
pub(super) fn metrics_of(target: &Target, profile: &Profile) -> reqwest::Url {
    let mut url = target.url(&profile.metrics_path);
    if let Some(port) = profile.metrics_port
        && url.set_port(Some(port)).is_ok()
    {
        url.set_path(&profile.metrics_path);
    }
    url
}

/// A profile by its name, or from a file.
pub(super) fn named(server: &str) -> Result<Profile, Failure> {
    let path = Path::new(server);
    let is_file = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    if !is_file && !server.contains('/') {
        return Profile::built_in(server).context("--server").or_exit(Exit::Usage);
    }
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--server: cannot read the profile {server}"))
        .or_exit(Exit::Usage)?;
    Profile::parse(server, &text).or_exit(Exit::Usage)
}

/// The API that load goes to.
pub(super) fn api(scenario: &Scenario, profile: &Profile) -> Result<Api, Failure> {
    let known = |word: &str| match word {
        "generate" => Some(Api::Generate),
        "chat" => Some(Api::Chat),
        "completions" => Some(Api::Completions),
        _ => None,
    };
    let offered: Vec<Api> = profile.apis.iter().filter_map(|word| known(word)).collect();
    match scenario.api {
        None => offered.first().copied().ok_or_else(|| anyhow!("the profile {} names no API", profile.name)),
        Some(api) if offered.contains(&api) => Ok(api),
        Some(_) => Err(anyhow!(
            "--api: {} answers to {}; leave --api out, or name another --server",
            profile.name,
            profile.apis.join(" and ")
        )),
    }
    .or_exit(Exit::Usage)
}

/// The target as its kind wants to be spoken to. TGI's own API is TGI's, whatever its profile is called.
pub(super) async fn spoken_to(
    target: Target,
    scenario: &Scenario,
    profile: &Profile,
    api: Api,
) -> Result<Target, Failure> {
    if profile.name == "tgi" || api == Api::Generate {
        return Ok(target);
    }
    let model = match &scenario.model {
        Some(model) => model.clone(),
        None => match drive::models(&target).await {
            Ok((model, _)) => model,
            Err(error @ DriveError::NotOpenAi { .. }) => return Err(error).or_exit(Exit::Usage),
            Err(error) => return Err(error).or_exit(Exit::Failed),
        },
    };
    Ok(target.openai(&model, profile.request.clone()))
}
