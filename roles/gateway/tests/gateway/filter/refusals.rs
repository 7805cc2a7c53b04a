//! Filters that refuse, whatever their words are and whoever carries the request.

use countersign_wire::ext_authz::check_response::HttpResponse;
use countersign_wire::ext_authz::{CheckResponse, OkHttpResponse, Status};

use super::{EVERYBODY, Edge, Filter, no};
use crate::rig::Rig;
use crate::rig::backend::Backend;
use crate::rig::client::get;

#[tokio::test]
async fn a_status_that_is_not_ok_refuses_whatever_else_the_filter_says() {
    for other in [None, Some(HttpResponse::OkResponse(OkHttpResponse::default()))] {
        for code in [1, 7, 16, -1] {
            let status = Some(Status { code, message: String::new() });
            let answer = CheckResponse { status, http_response: other.clone() };
            let edge = Edge::new(Filter::new(move || answer.clone()), "").await;
            assert_eq!(edge.get("alice", &[], &[]).await.problem(403), "access_denied", "{code}");
            assert_eq!(edge.seen.count(), 0);
        }
    }
}

/// To an upstream in HTTP/1.1 leads the quick carrier, which asks no filter: what is filtered is not for it.
#[tokio::test]
async fn nothing_goes_past_a_filter_on_the_way_to_an_upstream() {
    let (rig, filter, backend) = (Rig::new(), Filter::new(no(403, "")), Backend::named("backend").await);
    let socket = filter.on_socket(&rig, 0o600).await;
    rig.policy("gateway", EVERYBODY);
    let toml = format!(
        "[[filter]]\nname = \"opa\"\naddress = \"unix:{}\"\n\
         [[upstream]]\nname = \"backend\"\nendpoints = [\"{}\"]\n\
         [[route]]\npath = \"/all\"\nto = \"backend\"\nuser = \"none\"\n\
         [[route]]\npath = \"/named\"\nto = \"backend\"\nuser = \"none\"\nfilters = [\"opa\"]\n\
         [[route]]\npath = \"/unasked\"\nto = \"backend\"\nuser = \"none\"\nfilters = []\n",
        socket.display(),
        backend.address
    );
    let edge = rig.gateway(&toml).await;
    for path in ["/all", "/all", "/named", "/named"] {
        assert_eq!(get(edge.plain, path, &[]).await.problem(403), "access_denied", "{path}");
    }
    assert_eq!((filter.asked().len(), backend.count()), (4, 0));
    assert_eq!(get(edge.plain, "/unasked", &[]).await.status, 200);
    assert_eq!((filter.asked().len(), backend.count()), (4, 1));
}
