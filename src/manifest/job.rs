//! A Job that calibrates from inside of the cluster.

use super::{ClusterNames, ManifestError, to_yaml};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The user of the image, who is nobody.
const USER: i64 = 65532;
/// Where results go.
const RESULTS: &str = "/results";
/// The longest that the pod keeps its results for somebody to fetch: a day.
const LONGEST: i64 = 86_400;
/// What keeps them: the image has no shell and no tar, which `kubectl cp` takes.
const KEEPER: &str = "busybox:1";

/// The Job that runs `image` as `service_account`. It is made suspended, since it puts the server under
/// load until it breaks its SLO.
pub fn job(
    names: &ClusterNames,
    image: &str,
    service_account: &str,
    slos: &[String],
) -> Result<String, ManifestError> {
    names.validate()?;
    let ClusterNames { namespace, deployment, scaled: (_, kind), .. } = names;
    let workload = match kind.as_str() {
        "Deployment" => format!("{namespace}/{deployment}"),
        kind => format!("{}/{namespace}/{deployment}", kind.to_lowercase()),
    };
    let mut arguments: Vec<String> = ["run", "--ramp", "--deployment"].map(str::to_owned).into();
    arguments.extend([workload, "--out".to_owned(), format!("{RESULTS}/run")]);
    arguments.extend(slos.iter().flat_map(|slo| ["--slo".to_owned(), slo.clone()]));
    let calibrate = Container {
        args: Some(arguments),
        resources: Some(requests(&[("cpu", "2"), ("memory", "1Gi")])),
        working_dir: Some(RESULTS.to_owned()),
        ..container("calibrate", image)
    };
    let results = Container {
        command: Some(["sleep".to_owned(), LONGEST.to_string()].into()),
        resources: Some(requests(&[("cpu", "10m"), ("memory", "16Mi")])),
        ..container("results", KEEPER)
    };
    let metadata = ObjectMeta {
        name: Some("calibrate".to_owned()),
        namespace: Some(namespace.clone()),
        ..ObjectMeta::default()
    };
    let spec = JobSpec {
        suspend: Some(true),
        // A second calibration on top of a failed one helps nobody.
        backoff_limit: Some(0),
        active_deadline_seconds: Some(2 * LONGEST),
        template: PodTemplateSpec {
            spec: Some(pod(service_account, vec![calibrate, results])),
            ..PodTemplateSpec::default()
        },
        ..JobSpec::default()
    };
    to_yaml(&Job { metadata, spec: Some(spec), status: None }, &header(names))
}

/// How it is used.
fn header(names: &ClusterNames) -> Vec<String> {
    let ClusterNames { namespace, deployment, .. } = names;
    vec![
        format!(
            "Calibrates {deployment} from inside of the cluster, as the service account of rbac-run.yaml."
        ),
        "Where something scales it, add --pause-autoscaler and --yes, and take rbac-run-paused.yaml."
            .to_owned(),
        "It is suspended, since it loads the server until the SLO breaks. To start it:".to_owned(),
        format!("kubectl patch job calibrate -n {namespace} -p '{{\"spec\":{{\"suspend\":false}}}}'"),
        "What it does, and then its results, which its second container keeps for up to a day:".to_owned(),
        format!("kubectl logs -n {namespace} -f job/calibrate -c calibrate"),
        format!(
            "kubectl cp -n {namespace} -c results $(kubectl get pod -n {namespace} -l job-name=calibrate -o name | cut -d/ \
             -f2):{RESULTS}/run ./run"
        ),
        format!("kubectl delete job calibrate -n {namespace}"),
    ]
}

/// A pod of nobody's, with a place for results.
fn pod(service_account: &str, containers: Vec<Container>) -> PodSpec {
    PodSpec {
        service_account_name: Some(service_account.to_owned()),
        restart_policy: Some("Never".to_owned()),
        containers,
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(vec![Volume {
            name: "results".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

/// A container that may write nothing but the results.
fn container(name: &str, image: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "results".to_owned(),
            mount_path: RESULTS.to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn requests(wanted: &[(&str, &str)]) -> ResourceRequirements {
    let wanted = wanted.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())));
    ResourceRequirements { requests: Some(wanted.collect()), ..ResourceRequirements::default() }
}
