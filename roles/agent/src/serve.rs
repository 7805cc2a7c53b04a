//! The gRPC server on the agent's socket: two services, one way to know who asks.

use std::sync::Arc;
use std::time::Duration;

use countersign_wire::MESSAGE_BYTES_MAX;
use countersign_wire::agent::agent_server::AgentServer;
use countersign_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Extensions, Status};

use crate::agent::Core;
use crate::agent_api::AgentApi;
use crate::attest::Process;
use crate::registry::Registered;
use crate::socket::{Peer, Socket};
use crate::workload_api::{WorkloadApi, demand_metadata};

/// Calls and streams at one time on one connection.
const STREAMS_MAX: u32 = 32;
/// Longest wait for the beginning of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// A connection is asked for a sign of life, and closed when none comes.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of one call.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How long calls in progress may take once the agent stops; streams never end by themselves.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until `ending`.
pub(crate) async fn serve(core: Arc<Core>, socket: Socket, ending: CancellationToken) {
    let workload_api =
        SpiffeWorkloadApiServer::with_interceptor(WorkloadApi(Arc::clone(&core)), demand_metadata);
    let agent_api = AgentServer::new(AgentApi(core))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .timeout(ANSWER_TIMEOUT)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_service(workload_api)
        .add_service(agent_api)
        .serve_with_incoming_shutdown(Box::pin(socket.incoming()), ending.clone().cancelled_owned());
    let drained = async {
        ending.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => if let Err(error) = ended {
            tracing::error!(%error, "the agent's socket is no longer served");
        },
        () = drained => {}
    }
}

/// Who asks, as far as the kernel knows.
pub(crate) fn process(core: &Core, extensions: &Extensions) -> Result<Arc<Process>, Status> {
    let Some(Peer(process)) = extensions.get::<Peer>() else {
        return Err(Status::internal("a call without a connection"));
    };
    core.limits.call(process.key())?;
    if !process.is_alive() {
        return Err(Status::permission_denied("the process that connected has exited"));
    }
    Ok(Arc::clone(process))
}

/// Who asks, and which service that is. Everybody else is nobody, and learns what to do about it.
pub(crate) fn caller(
    core: &Core,
    extensions: &Extensions,
) -> Result<(Arc<Process>, Arc<Registered>), Status> {
    let process = process(core, extensions)?;
    if core.credential.borrow().is_none() {
        return Err(starting());
    }
    match core.registry.who(&process) {
        Some(held) => Ok((process, held)),
        None => {
            metrics::counter!("countersign_agent_strangers_total").increment(1);
            let (pid, uid) = (process.key().pid, process.uid());
            tracing::info!(pid, uid, "a process without an identity asked for one");
            Err(nobody(pid))
        }
    }
}

/// The agent has not got its own identity, or what it must hand out, yet.
pub(crate) fn starting() -> Status {
    Status::unavailable("the agent is starting: try again")
}

/// What a stream ends with when its caller is no longer entitled to it.
pub(crate) fn gone() -> Status {
    Status::permission_denied(
        "no identity issued any more: the entry was withdrawn, or the process has exited",
    )
}

fn nobody(pid: i32) -> Status {
    Status::permission_denied(format!(
        "no identity issued: process {pid} was not launched as a service; start it with `countersign run --service NAME -- CMD`"
    ))
}
