//! A service that answers with what it saw.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

/// Requests that arrived, in their order.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<Value>>>);

impl Seen {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn last(&self) -> Value {
        self.0.lock().unwrap().last().cloned().expect("a request arrived")
    }

    pub fn push(&self, saw: Value) {
        self.0.lock().unwrap().push(saw);
    }

    pub fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }
}

/// Every route of `paths` answers 200 with method, path, query, headers and body.
pub fn router(paths: &[&str], seen: &Seen) -> Router {
    paths.iter().fold(Router::new(), |router, path| {
        let seen = seen.clone();
        router.route(path, axum::routing::any(move |request| echo(request, seen)))
    })
}

async fn echo(request: Request<Body>, seen: Seen) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 * 1024 * 1024).await;
    let Ok(body) = body else { return http::StatusCode::BAD_REQUEST.into_response() };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let saw = json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": headers,
        "body_bytes": body.len(),
        "body": String::from_utf8_lossy(&body[..body.len().min(256)]),
    });
    seen.0.lock().unwrap().push(saw.clone());
    axum::Json(saw).into_response()
}

/// Values of a header in what a service saw.
pub fn header(saw: &Value, name: &str) -> Vec<String> {
    let headers = saw["headers"].as_array().unwrap();
    headers.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}
