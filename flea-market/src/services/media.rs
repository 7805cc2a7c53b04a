//! Small pictures.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use countersign_sdk::clock;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use serde::{Deserialize, Serialize};

use crate::{
    asking::EndUser,
    fault::{Fault, no_method, no_route},
    input::{Id, bytes_of, media_type},
    store::{MediaStore, Picture},
};

/// Largest picture, in bytes.
pub const PICTURE_BYTES_MAX: usize = 64 * 1024;
/// Most pictures of one person.
pub const PICTURES_MAX: i64 = 200;

const PNG: &str = "image/png";
const JPEG: &str = "image/jpeg";

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Media {
    /// Its own database.
    pub store: MediaStore,
}

/// The routes of the service.
pub fn router(media: Media) -> Router {
    Router::new()
        .route("/media", post(add))
        .route("/media/{id}", get(show))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(Arc::new(media))
}

/// A picture that was added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Added {
    /// Its number.
    pub id: i64,
    /// Where it is.
    pub path: String,
}

async fn add(
    State(media): State<Arc<Media>>,
    user: EndUser,
    request: Request,
) -> Result<(StatusCode, axum::Json<Added>), Fault> {
    let content_type = match media_type(request.headers()) {
        Some(PNG) => PNG,
        Some(JPEG) => JPEG,
        _ => return Err(Fault::MediaType { expected: "image/png or image/jpeg" }),
    };
    let bytes = bytes_of(request, PICTURE_BYTES_MAX).await?;
    if !is_picture(content_type, &bytes) {
        return Err(Fault::Invalid(format!("body is not {content_type}")));
    }
    let owner = media.store.db().recognise(&user).await?;
    if media.store.count_of(&owner).await? >= PICTURES_MAX {
        return Err(Fault::Conflict(format!("you have {PICTURES_MAX} pictures already")));
    }
    let picture = Picture { owner, content_type: content_type.to_owned(), bytes: bytes.to_vec() };
    let id = media.store.add(&picture, clock::now()).await?;
    Ok((StatusCode::CREATED, axum::Json(Added { id, path: format!("/media/{id}") })))
}

async fn show(State(media): State<Arc<Media>>, Id(id): Id) -> Result<Response, Fault> {
    let picture = media.store.find(id).await?;
    let picture = picture.ok_or_else(|| Fault::NotFound(format!("there is no picture {id}")))?;
    let content_type = if picture.content_type == JPEG { JPEG } else { PNG };
    // What somebody uploaded is a picture and nothing else, whatever a browser makes of its bytes.
    let headers: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable")),
    ];
    Ok((headers, picture.bytes).into_response())
}

/// Whether the file begins and ends as its kind does.
fn is_picture(content_type: &str, bytes: &[u8]) -> bool {
    match content_type {
        PNG => bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.ends_with(b"IEND\xaeB`\x82"),
        JPEG => bytes.starts_with(b"\xff\xd8\xff") && bytes.ends_with(b"\xff\xd9"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_calls_itself_a_picture_is_not_one() {
        assert!(!is_picture(PNG, b"<script>alert(1)</script>"));
        assert!(!is_picture(PNG, b"\xff\xd8\xff....\xff\xd9"));
        assert!(!is_picture(PNG, b"\x89PNG\r\n\x1a\n and then nothing"));
        assert!(!is_picture(PNG, b""));
        assert!(is_picture(JPEG, b"\xff\xd8\xff....\xff\xd9"));
    }
}
