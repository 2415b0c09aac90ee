//! The way to a pod's port: the proxy, and port-forward over a websocket.

use super::answer::Answer;
use super::asked::Asked;
use super::{ApiState, Shared};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

const PROTOCOL: &str = "v4.channel.k8s.io";

impl ApiState {
    /// The real address behind a port of a pod.
    fn backend(&self, pod: &str, port: u16) -> Option<SocketAddr> {
        let own = self.pod_backends.get(pod);
        let ports = own.or_else(|| self.pod_backends.get("*"))?;
        ports.iter().find(|(number, _)| *number == port).map(|(_, address)| *address)
    }
}

/// `pods/POD:PORT/proxy/PATH`.
pub async fn proxy(shared: &Shared, asked: &Asked, method: http::Method, body: Vec<u8>) -> Response {
    let name = asked.name.clone().unwrap_or_default();
    let (pod, port) = name.split_once(':').unwrap_or((&name, "80"));
    let backend = shared.state().backend(pod, port.parse().unwrap_or(0));
    let Some(address) = backend else {
        let message =
            format!("error trying to reach service: dial tcp 10.244.0.9:{port}: connect: connection refused");
        return Answer::status(503, "ServiceUnavailable", &message, serde_json::Value::Null).into_response();
    };
    let url = format!("http://{address}/{}", asked.tail);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.request(method, url).body(body).send().await;
    match answer {
        Ok(answer) => {
            let status = answer.status();
            let mut response = Response::builder().status(status);
            if let Some(kind) = answer.headers().get("content-type") {
                response = response.header("content-type", kind);
            }
            response.body(Body::from_stream(answer.bytes_stream())).expect("an answer")
        }
        Err(error) => Answer::text(502, &format!("proxy error: {error}\n")).into_response(),
    }
}

/// `pods/POD/portforward?ports=PORT`.
pub fn port_forward(shared: &Arc<Shared>, asked: &Asked, mut request: Request) -> Response {
    let port: u16 = asked.query.get("ports").and_then(|ports| ports.parse().ok()).unwrap_or(0);
    let Some(key) = request.headers().get("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()))
    else {
        return Answer::bad_request("you must specify at least 1 port").into_response();
    };
    let pod = asked.name.clone().unwrap_or_default();
    let backend = shared.state().backend(&pod, port);
    let upgrade = hyper::upgrade::on(&mut request);
    let closing = shared.cut_forwards.subscribe();
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let _ = bridge(socket, port, backend, closing).await;
    });
    Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", key)
        .header("sec-websocket-protocol", PROTOCOL)
        .body(Body::empty())
        .expect("an answer")
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Copies between the websocket's channels and the port, as the kubelet does: channel 0 is data, 1 is
/// errors, and each begins with the number of the port.
async fn bridge(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    port: u16,
    backend: Option<SocketAddr>,
    mut closing: tokio::sync::watch::Receiver<u64>,
) -> Outcome {
    let [low, high] = port.to_le_bytes();
    for channel in [0, 1] {
        socket.send(Message::binary(vec![channel, low, high])).await?;
    }
    let connected = match backend {
        Some(address) => TcpStream::connect(address).await.map_err(|error| error.to_string()),
        None => Err(format!("dial tcp4 127.0.0.1:{port}: connect: connection refused")),
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            let message = format!("error forwarding port {port} to pod: {error}");
            socket.send(Message::binary([vec![1], message.into_bytes()].concat())).await?;
            socket.close(None).await?;
            return Ok(());
        }
    };
    stream.set_nodelay(true)?;
    let (mut from_port, mut to_port) = stream.into_split();
    let (mut sink, mut messages) = socket.split();
    let up = async {
        while let Some(message) = messages.next().await {
            match message? {
                Message::Binary(bytes) if bytes.first() == Some(&0) => to_port.write_all(&bytes[1..]).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_port.shutdown().await?;
        Outcome::Ok(())
    };
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from_port.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            sink.send(Message::binary([&[0], &buffer[..read]].concat())).await?;
        }
        sink.close().await?;
        Outcome::Ok(())
    };
    tokio::select! {
        up = up => up,
        down = down => down,
        _ = closing.changed() => Ok(()),
    }
}
