//! Tokens for Google's APIs, by Google's own library: it finds, refreshes and never prints them.

use super::http::{Problem, ProblemKind};
use google_cloud_auth::credentials::{self, CacheableResource, Credentials};
use reqwest::header::HeaderMap;
use std::fmt;
use std::time::Duration;

/// What reading metrics needs.
const SCOPE: &str = "https://www.googleapis.com/auth/monitoring.read";
/// What handing on an identity needs.
const SCOPE_TO_IMPERSONATE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Longest wait for a token.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Where Google's libraries look.
const WHERE: &str = "credentials come from GOOGLE_APPLICATION_CREDENTIALS, from `gcloud auth application-default \
                     login`, from the metadata server of a Google machine, or from --google-credentials file:KEY.json";

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq)]
pub enum GoogleCredentials {
    /// Application default credentials: environment, then gcloud's, then the metadata server.
    Default,
    /// The metadata server of the machine, at `GCE_METADATA_HOST` where that is set.
    Metadata,
    /// The JSON of a service account, an authorized user, an impersonation or a federated identity.
    Json(serde_json::Value),
}

/// Access to Google's APIs.
#[derive(Clone)]
pub struct GoogleAccess {
    credentials: Credentials,
}

impl fmt::Debug for GoogleAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GoogleAccess")
    }
}

impl GoogleAccess {
    /// Access with credentials, as another service account where `impersonate` names one. To be called
    /// within a runtime.
    ///
    /// # Errors
    /// Credentials that cannot be used.
    pub fn new(from: GoogleCredentials, impersonate: Option<&str>) -> Result<GoogleAccess, Problem> {
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            let reason = format!("Google credentials cannot be used: {}; {WHERE}", chain(error));
            Problem::new(ProblemKind::Unauthorized, reason)
        };
        let scope = if impersonate.is_some() { SCOPE_TO_IMPERSONATE } else { SCOPE };
        let built = build(from, scope).map_err(|error| unusable(&error))?;
        let credentials = match impersonate {
            None => built,
            Some(account) => credentials::impersonated::Builder::from_source_credentials(built)
                .with_target_principal(account)
                .with_scopes([SCOPE])
                .build()
                .map_err(|error| unusable(&error))?,
        };
        Ok(GoogleAccess { credentials })
    }

    /// The headers of a request now. The library keeps a token until shortly before its end.
    pub(super) async fn headers(&self) -> Result<HeaderMap, Problem> {
        let no_token = |reason: String| {
            Problem::new(ProblemKind::Unauthorized, format!("no Google token: {reason}; {WHERE}"))
        };
        let asked = self.credentials.headers(http::Extensions::new());
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok(CacheableResource::New { data, .. })) => Ok(data),
            Ok(Ok(CacheableResource::NotModified)) => Err(no_token("the library gave none".to_owned())),
            Ok(Err(error)) => Err(no_token(chain(&error))),
            Err(_) => Err(no_token(format!("none within {} s", TIMEOUT.as_secs()))),
        }
    }
}

fn build(
    from: GoogleCredentials,
    scope: &str,
) -> Result<Credentials, google_cloud_auth::build_errors::Error> {
    let json = match from {
        GoogleCredentials::Default => return credentials::Builder::default().with_scopes([scope]).build(),
        GoogleCredentials::Metadata => {
            return credentials::mds::Builder::default().with_scopes([scope]).build();
        }
        GoogleCredentials::Json(json) => json,
    };
    match json.get("type").and_then(serde_json::Value::as_str) {
        Some("authorized_user") => credentials::user_account::Builder::new(json).with_scopes([scope]).build(),
        Some("impersonated_service_account") => {
            credentials::impersonated::Builder::new(json).with_scopes([scope]).build()
        }
        Some("external_account") => {
            credentials::external_account::Builder::new(json).with_scopes([scope]).build()
        }
        // The library says what is missing in anything that is no service account.
        _ => {
            let access = credentials::service_account::AccessSpecifier::from_scopes([scope]);
            credentials::service_account::Builder::new(json).with_access_specifier(access).build()
        }
    }
}

/// An error with its reasons. The library's errors hold no token.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let reasons = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut said: Vec<String> = Vec::new();
    for reason in reasons {
        if !said.last().is_some_and(|before| before.contains(&reason)) {
            said.push(reason);
        }
    }
    said.join(": ")
}
