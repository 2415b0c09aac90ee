//! A target is held still for a calibration, and is as it was afterwards: after a good end, after errors
//! of the API server, and after the process was killed at any moment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;

use api_server::answer::Answer;
use api_server::{ApiServer, client_of};
use calibrate::cluster::{
    Change, Choice, Cluster, Hold, HoldError, Identity, LeaseError, LeaseTimes, ORIGINAL, Restored, Target,
    Wish, lease_name, restore_all,
};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

const NAME: &str = "tgi";
/// A lease that needs no patience of a test.
const TIMES: LeaseTimes = LeaseTimes { duration: Duration::from_secs(30), renew: Duration::from_millis(20) };
const MOST: Duration = Duration::from_secs(60);

fn cluster(api: &ApiServer) -> Cluster {
    cluster_at(api.address())
}

fn cluster_at(address: SocketAddr) -> Cluster {
    let identity = Identity {
        context: Some("test".to_owned()),
        cluster: None,
        server: format!("http://{address}"),
        namespace: "default".to_owned(),
    };
    Cluster::new(client_of(address), identity)
}

fn wish(replicas: Option<u32>) -> Wish<'static> {
    Wish { run: "run-of-the-test", pause: true, replicas, times: TIMES }
}

async fn target(cluster: &Cluster) -> Target {
    Target::read(cluster, &NAME.parse().unwrap(), &Choice::default()).await.unwrap()
}

/// Everything that a calibration might change.
fn autoscaled() -> ApiServer {
    let api = ApiServer::start();
    api.deployment(NAME, 2, &[]);
    api.hpa("gemma", NAME, Some(json!({ "scaleDown": { "stabilizationWindowSeconds": 60 } })));
    api.scaled_object("keda", NAME);
    api.vpa("vpa", NAME, "Auto");
    api.hpa("of-another", "another", None);
    api
}

/// What must be byte for byte as it was: specs, and annotations.
fn owned_by_the_user(api: &ApiServer) -> String {
    let state = api.state();
    let objects =
        state.store.objects.iter().filter(|(key, _)| key.resource != "pods" && key.resource != "events");
    let shown = objects.map(|(key, object)| {
        format!(
            "{key:?} {} {} {}\n",
            object["spec"], object["metadata"]["annotations"], object["metadata"]["labels"]
        )
    });
    shown.collect()
}

fn is_paused(api: &ApiServer) -> [bool; 3] {
    let hpa = api.object("horizontalpodautoscalers", "gemma");
    let disabled = |direction: &str| hpa["spec"]["behavior"][direction]["selectPolicy"] == "Disabled";
    let keda = api.object("scaledobjects", "keda");
    let vpa = api.object("verticalpodautoscalers", "vpa");
    [
        disabled("scaleUp") && disabled("scaleDown"),
        keda["metadata"]["annotations"]["autoscaling.keda.sh/paused"] == "true",
        vpa["spec"]["updatePolicy"]["updateMode"] == "Off",
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_held_still_and_is_then_as_it_was() {
    let api = autoscaled();
    let before = owned_by_the_user(&api);
    let cluster = cluster(&api);
    let written = RefCell::new(Vec::new());
    let target = target(&cluster).await;
    let wish = wish(Some(1));
    let hold = Hold::take(&cluster, &target, &wish, |journal| {
        assert_eq!(
            owned_by_the_user(&api).replace(&lease_line(&api), ""),
            before,
            "nothing changed before it is written down"
        );
        written.borrow_mut().push(journal.clone());
        Ok(())
    });
    let hold = hold.await.unwrap();
    assert_eq!(is_paused(&api), [true; 3]);
    assert_eq!(api.object("deployments", NAME)["spec"]["replicas"], 1);
    let hpa = api.object("horizontalpodautoscalers", "gemma");
    let original: Value =
        serde_json::from_str(hpa["metadata"]["annotations"][ORIGINAL].as_str().unwrap()).unwrap();
    assert_eq!(original["scaleDown"]["stabilizationWindowSeconds"], 60);
    assert_eq!(hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"], 60, "the rest stays");
    let lease = api.object("leases", &lease_name(&target));
    let in_lease: Vec<Change> =
        serde_json::from_str(lease["metadata"]["annotations"]["calibrate/changes"].as_str().unwrap())
            .unwrap();
    assert_eq!(in_lease, hold.changes());
    assert_eq!(written.borrow()[0].changes, hold.changes());
    assert_eq!(hold.changes().len(), 4);
    hold.release().await.unwrap();
    assert_eq!(owned_by_the_user(&api), before);
}

fn lease_line(api: &ApiServer) -> String {
    owned_by_the_user(api)
        .lines()
        .find(|line| line.contains("leases"))
        .map_or(String::new(), |l| format!("{l}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaled_target_is_refused_and_nothing_is_written() {
    let api = autoscaled();
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let before = api.state().store.version;
    let refused = calibrate::cluster::plan(&cluster, &target, &Wish { pause: false, ..wish(None) }).await;
    let text = refused.unwrap_err().to_string();
    for part in [
        "HorizontalPodAutoscaler gemma",
        "ScaledObject keda",
        "VerticalPodAutoscaler vpa",
        "--pause-autoscaler",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("of-another"), "{text}");
    assert_eq!(api.state().store.version, before);
    let outside = calibrate::cluster::plan(&cluster, &target, &wish(Some(9))).await.unwrap_err();
    assert!(outside.to_string().contains("allows 1 to 5 replicas"), "{outside}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hpa_of_kedas_is_left_to_keda() {
    let api = ApiServer::start();
    api.deployment(NAME, 1, &[]);
    api.scaled_object("keda", NAME);
    api.hpa("keda-hpa-keda", NAME, None);
    api.change("horizontalpodautoscalers", "keda-hpa-keda", |hpa| {
        hpa["metadata"]["ownerReferences"] = json!([{ "kind": "ScaledObject", "name": "keda" }]);
    });
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let changes = calibrate::cluster::plan(&cluster, &target, &wish(None)).await.unwrap();
    assert!(matches!(changes.as_slice(), [Change::Paused { name, .. }] if name == "keda"), "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calibrations_of_one_target_exclude_each_other() {
    let api = autoscaled();
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let (wish, write) = (wish(None), |_: &_| Ok(()));
    let first = Hold::take(&cluster, &target, &wish, write).await.unwrap();
    let second = Hold::take(&cluster, &target, &wish, write).await.unwrap_err();
    assert!(matches!(second, HoldError::Lease(LeaseError::Held { .. })), "{second}");
    assert!(second.to_string().contains("run-of-the-test"), "{second}");
    // Doctor waits for a renewal, sees one and leaves everything alone.
    let busy = restore_all(&cluster, "default", LeaseTimes { duration: Duration::from_millis(100), ..TIMES });
    assert!(matches!(busy.await.unwrap().as_slice(), [Restored::Busy { .. }]));
    assert_eq!(is_paused(&api), [true; 3]);
    first.release().await.unwrap();
    let third = Hold::take(&cluster, &target, &wish, write).await.unwrap();
    // One that looks expired and is not renewed any more is taken over; its holder is told.
    let mut lost = third.lost();
    api.change("leases", &lease_name(&target), |lease| {
        lease["spec"]["holderIdentity"] = "elsewhere/1/another".into();
    });
    let told = tokio::time::timeout(MOST, lost.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert!(told.unwrap().contains("taken over by elsewhere/1/another"));
    // What is paused now is the other's.
    third.release().await.unwrap();
    assert_eq!(is_paused(&api), [true; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_the_middle_puts_back_what_was_changed_before() {
    let api = autoscaled();
    let before = owned_by_the_user(&api);
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    api.deny("patch autoscaling.k8s.io/verticalpodautoscalers");
    let refused = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap_err();
    assert!(refused.to_string().contains("cannot patch verticalpodautoscalers"), "{refused}");
    assert_eq!(owned_by_the_user(&api), before);
    let full = |_: &_| Err(std::io::Error::other("disk full"));
    let not_written = Hold::take(&cluster, &target, &wish(Some(1)), full).await;
    assert!(not_written.unwrap_err().to_string().contains("nothing was changed"));
    assert_eq!(owned_by_the_user(&api), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_a_moment_does_not_hinder_the_way_back() {
    let api = autoscaled();
    let before = owned_by_the_user(&api);
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let hold = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap();
    api.fail("patch", "horizontalpodautoscalers", 0, 1, Answer::text(503, "service unavailable\n"));
    api.fail("get", "scaledobjects", 0, 1, Answer::status(429, "TooManyRequests", "wait", Value::Null));
    api.fail("patch", "verticalpodautoscalers", 0, 1, Answer::recorded("patch-stale-409"));
    hold.release().await.unwrap();
    assert_eq!(owned_by_the_user(&api), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_that_someone_else_made_meanwhile_stays() {
    let api = autoscaled();
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let hold = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap();
    api.scale("deployments", NAME, 4);
    api.change("horizontalpodautoscalers", "gemma", |hpa| hpa["spec"]["maxReplicas"] = 7.into());
    hold.release().await.unwrap();
    assert_eq!(api.object("deployments", NAME)["spec"]["replicas"], 4);
    assert_eq!(api.object("horizontalpodautoscalers", "gemma")["spec"]["maxReplicas"], 7);
    assert_eq!(is_paused(&api), [false; 3]);
}

/// Lets time pass for a lease whose holder is gone.
fn expire(api: &ApiServer) {
    let leases: Vec<String> = {
        let state = api.state();
        state
            .store
            .objects
            .keys()
            .filter(|key| key.resource == "leases")
            .map(|key| key.name.clone())
            .collect()
    };
    for name in leases {
        api.change("leases", &name, |lease| {
            lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z".into();
        });
    }
}

/// A whole calibration, as far as the cluster sees it.
async fn hold_and_let_go(cluster: Cluster) {
    let target = target(&cluster).await;
    let hold = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap();
    hold.release().await.unwrap();
}

/// Kills a calibration at its n-th request, before or after that was done: nothing of it runs any more, not
/// even what would run when it is dropped. Then puts everything back, and compares.
async fn killed_at(api: &ApiServer, doctor: &Cluster, request: u64, applied: bool) {
    let before = owned_by_the_user(api);
    api.hang_at(request, applied);
    let address = api.address();
    let (kill, killed) = tokio::sync::oneshot::channel::<()>();
    // A runtime of its own, of which nothing goes on once it is gone: as with a process.
    let process = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut work = Box::pin(async move { hold_and_let_go(cluster_at(address)).await });
        let killed = runtime.block_on(async {
            tokio::select! {
                () = &mut work => false,
                _ = killed => true,
            }
        });
        std::mem::forget(work);
        killed
    });
    let mut process = std::pin::pin!(process);
    let killed = tokio::select! {
        done = &mut process => done.unwrap(),
        _ = api.hung(MOST) => {
            let _ = kill.send(());
            process.await.unwrap()
        }
    };
    if killed {
        // What was on its way when it was killed arrives.
        tokio::time::sleep(Duration::from_millis(30)).await;
        expire(api);
        // One renewal more may have been on its way, which nobody waits out here.
        let times = LeaseTimes { duration: Duration::from_millis(100), ..TIMES };
        restore_all(doctor, "default", times).await.unwrap();
    }
    assert_eq!(owned_by_the_user(api), before, "killed at request {request}, applied: {applied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_at_any_moment_everything_is_byte_for_byte_as_it_was() {
    // How many requests there are in all.
    let api = autoscaled();
    hold_and_let_go(cluster(&api)).await;
    let requests = api.log().len() as u64;
    assert!(requests > 20, "{requests}");
    let moments: Vec<(u64, bool)> = (0..)
        .flat_map(|_| (1..=requests).flat_map(|request| [(request, false), (request, true)]))
        .take(200)
        .collect();
    // One server after the other is left behind, and found, by twenty killed calibrations.
    let servers = moments.chunks(20).map(async |some| {
        let api = autoscaled();
        let doctor = cluster(&api);
        for (request, applied) in some {
            killed_at(&api, &doctor, *request, *applied).await;
        }
    });
    futures::future::join_all(servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_an_expired_lease_puts_back_first_what_its_holder_had_changed() {
    let api = autoscaled();
    let before = owned_by_the_user(&api);
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let killed = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap();
    // As after kill -9: nothing is renewed and nothing put back.
    std::mem::drop(killed);
    expire(&api);
    let hold = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap();
    assert_eq!(is_paused(&api), [true; 3]);
    hold.release().await.unwrap();
    assert_eq!(owned_by_the_user(&api), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_whose_lease_someone_took_away_is_put_back_by_its_annotation() {
    let api = autoscaled();
    let cluster = cluster(&api);
    let target = target(&cluster).await;
    let killed = Hold::take(&cluster, &target, &wish(None), |_| Ok(())).await.unwrap();
    std::mem::drop(killed);
    api.delete("leases", &lease_name(&target));
    let restored = restore_all(&cluster, "default", TIMES).await.unwrap();
    assert_eq!(restored.len(), 3, "{restored:?}");
    assert_eq!(is_paused(&api), [false; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_worker_set_is_held_by_its_leaders() {
    let api = ApiServer::start();
    let container = |gpus: u32| {
        json!({
            "name": "vllm", "ports": [{ "containerPort": 8080 }], "args": ["--model=meta/llama"],
            "resources": { "limits": { "nvidia.com/gpu": gpus.to_string() } },
        })
    };
    let worker = json!({ "spec": { "containers": [container(8)] } });
    let object = json!({
        "kind": "LeaderWorkerSet", "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "metadata": { "name": "big", "namespace": "default", "generation": 1 },
        "spec": { "replicas": 2, "leaderWorkerTemplate": { "size": 2, "workerTemplate": worker } },
        "status": {},
    });
    api.workload("leaderworkerset.x-k8s.io", "leaderworkersets", object, &[]);
    api.hpa("of-big", "big", None);
    api.change("horizontalpodautoscalers", "of-big", |hpa| {
        hpa["spec"]["scaleTargetRef"] =
            json!({ "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "big" });
    });
    let before = owned_by_the_user(&api);
    let cluster = cluster(&api);
    let name = "leaderworkerset/default/big".parse().unwrap();
    let target = Target::read(&cluster, &name, &Choice::default()).await.unwrap();
    assert_eq!((target.gpus, target.model.as_deref()), (16, Some("meta/llama")));
    assert_eq!(target.ready_pods(&cluster).await.unwrap().len(), 2);
    let hold = Hold::take(&cluster, &target, &wish(Some(1)), |_| Ok(())).await.unwrap();
    assert_eq!(hold.changes().len(), 2, "its HPA and its replicas");
    assert_eq!(api.object("leaderworkersets", "big")["spec"]["replicas"], 1);
    hold.release().await.unwrap();
    assert_eq!(owned_by_the_user(&api), before);
}
