//! The Service in front of a target's pods.

use super::client::Cluster;
use super::kinds;
use super::target::{Target, TargetError};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The address of the Service that leads to a target: the one that is named, or the only one that selects
/// its pods.
///
/// # Errors
/// There is none, there are several, or it has no address that can be reached from here.
pub async fn service_url(
    cluster: &Cluster,
    target: &Target,
    wanted: Option<&str>,
) -> Result<String, TargetError> {
    let wrong = |found: String| TargetError::Service { what: target.what(), found };
    let service = if let Some(name) = wanted {
        cluster.get(kinds::SERVICE, &target.namespace, name).await?.try_parse::<Service>().ok()
    } else {
        let all = cluster.list(kinds::SERVICE, &target.namespace, "").await?;
        let all = all.into_iter().filter_map(|object| object.try_parse::<Service>().ok());
        let mut fitting: Vec<Service> = all.filter(|service| selects(service, target)).collect();
        if fitting.len() > 1 {
            let names = fitting.iter().filter_map(|service| service.metadata.name.as_deref());
            return Err(wrong(format!("the Services {}", names.collect::<Vec<_>>().join(", "))));
        }
        fitting.pop()
    };
    let service = service.ok_or_else(|| wrong("no Service that selects its pods".to_owned()))?;
    let name = service.metadata.name.clone().unwrap_or_default();
    let port = port(&service, target)
        .ok_or_else(|| wrong(format!("the Service {name}, which has no port for {}", target.port)))?;
    let outside = service.status.as_ref().and_then(|status| {
        let ingress = status.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
        ingress.ip.clone().or_else(|| ingress.hostname.clone())
    });
    match (cluster.identity().context.is_none(), outside) {
        (true, _) => Ok(format!("http://{name}.{}.svc:{port}", target.namespace)),
        (false, Some(address)) => Ok(format!("http://{address}:{port}")),
        (false, None) => {
            Err(wrong(format!("the Service {name}, which cannot be reached from outside of the cluster")))
        }
    }
}

fn selects(service: &Service, target: &Target) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| target.labels.get(key) == Some(value))
    })
}

/// The Service's port that leads to the target's.
fn port(service: &Service, target: &Target) -> Option<i32> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let leads = |to: &IntOrString| match to {
        IntOrString::Int(number) => *number == i32::from(target.port.number),
        IntOrString::String(name) => Some(name) == target.port.name.as_ref(),
    };
    let fits = ports.iter().find(|port| match &port.target_port {
        Some(to) => leads(to),
        None => port.port == i32::from(target.port.number),
    });
    fits.map(|port| port.port)
}
