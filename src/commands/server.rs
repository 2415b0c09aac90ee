//! What kind of server a target is: named by the user, or recognized by what it shows.

use super::run::access::Access;
use crate::cli::{Exit, Failure, OrExit};
use crate::drive::{self, DriveError, Target};
use crate::observe::{Profile, exposition_at};
use crate::scenario::{Api, Scenario};
use anyhow::{Context, anyhow};
use std::path::Path;

/// The profile of the server at `target`. One that shows nothing known is taken for TGI, which shows
/// nothing at all before its first request; whether it is TGI the first request tells.
pub(super) async fn profile(
    scenario: &Scenario,
    target: &Target,
    access: &Access,
    simulated: bool,
) -> Result<Profile, Failure> {
    if simulated {
        return Profile::built_in("tgi").or_exit(Exit::Usage);
    }
    if scenario.server != "auto" {
        return named(&scenario.server);
    }
    let own = target.url("");
    let url = scenario.metrics_urls.first().cloned().unwrap_or_else(|| target.url("metrics").to_string());
    let shown = exposition_at(&access.metrics(&url, &own), &url).await;
    match shown.ok().and_then(|exposition| Profile::recognize(&exposition)) {
        Some(profile) => Ok(profile),
        None => Profile::built_in("tgi").or_exit(Exit::Usage),
    }
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
