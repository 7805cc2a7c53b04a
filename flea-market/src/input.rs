//! What services are sent: bounded, of one kind, with no unknown, doubled or mistyped member.

use axum::{
    RequestExt,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
};
use http::{HeaderMap, header::CONTENT_TYPE, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::fault::Fault;

/// Longest JSON body, in bytes.
pub const JSON_BYTES_MAX: usize = 16 * 1024;

/// A JSON body. Types that are read this way deny unknown members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// The parameters of a query. Types that are read this way deny unknown ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<T>(pub(crate) T);

/// The one parameter of a path, a number from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(pub(crate) i64);

/// The one parameter of a path, a name.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(crate) String);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Fault> {
        if media_type(request.headers()) != Some("application/json") {
            return Err(Fault::MediaType { expected: "application/json" });
        }
        read_json(&bytes_of(request, JSON_BYTES_MAX).await?).map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Fault> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|error| Fault::Malformed(error.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|_| Fault::Internal)?;
        let is_plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        let id = is_plain.then(|| text.parse().ok()).flatten();
        id.map(Self)
            .ok_or_else(|| Fault::Malformed(format!("path has {text:?} where a number from 1 stands")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Handle {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let handle = Path::<String>::from_request_parts(parts, state).await;
        handle.map(|Path(handle)| Self(handle)).map_err(|error| Fault::Malformed(error.body_text()))
    }
}

/// The body of a request, if it is not longer than `max` bytes.
///
/// # Errors
/// Too long, or the connection broke.
pub(crate) async fn bytes_of(request: Request, max: usize) -> Result<Bytes, Fault> {
    let body = Limited::new(request.into_limited_body(), max);
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if is_too_long(&*error) => Err(Fault::TooLarge { max }),
        Err(_) => Err(Fault::Malformed("body did not arrive".to_owned())),
    }
}

/// The media type of a body, without parameters.
#[must_use]
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next().map(str::trim)
}

/// Reads JSON; an error says in which member it is.
///
/// # Errors
/// Not JSON, or not of this shape.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| Fault::Malformed(format!("body is wrong at {}: {}", error.path(), error.inner())))?;
    reader.end().map_err(|error| Fault::Malformed(format!("body goes on after its end: {error}")))?;
    Ok(value)
}

/// A text of 1 to `chars_max` characters without control characters (line breaks aside) and without
/// white space around it.
///
/// # Errors
/// Anything else; `member` is named in the message.
pub(crate) fn text(member: &str, value: &str, chars_max: usize) -> Result<String, Fault> {
    let value = value.trim();
    if value.is_empty() {
        return Err(Fault::Invalid(format!("{member} is empty")));
    }
    if value.chars().count() > chars_max {
        return Err(Fault::Invalid(format!("{member} has more than {chars_max} characters")));
    }
    if value.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Fault::Invalid(format!("{member} holds a control character")));
    }
    Ok(value.to_owned())
}

fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::body::Body;
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Offer {
        title: String,
        price: Option<i64>,
    }

    async fn read(content_type: &str, body: impl Into<Body>) -> Result<Offer, Fault> {
        let request = Request::builder().header(CONTENT_TYPE, content_type).body(body.into()).unwrap();
        Json::from_request(request, &()).await.map(|Json(offer)| offer)
    }

    fn message(fault: Fault) -> String {
        match fault {
            Fault::Malformed(message) => message,
            other => format!("another fault: {other:?}"),
        }
    }

    #[tokio::test]
    async fn accepts_json_of_the_right_shape() {
        let offer = read("application/json; charset=utf-8", r#"{"title":"Bike","price":5}"#).await;
        assert_eq!(offer.unwrap(), Offer { title: "Bike".into(), price: Some(5) });
    }

    #[tokio::test]
    async fn rejects_each_wrong_shape_and_says_where() {
        for (body, says) in [
            ("", "EOF while parsing"),
            ("{", "EOF while parsing"),
            ("[]", "invalid length 0"),
            (r#"{"title":1}"#, "title: invalid type: integer `1`, expected a string"),
            (r#"{"title":"x","price":"5"}"#, "price: invalid type: string"),
            (r#"{"title":"x","price":5.5}"#, "price: invalid type: floating point"),
            (r#"{"title":"x","price":99999999999999999999}"#, "price: invalid"),
            (r#"{"title":"x","prize":5}"#, "prize: unknown field `prize`"),
            (r#"{"title":"x","title":"y"}"#, "duplicate field `title`"),
            (r#"{"price":5}"#, "missing field `title`"),
            (r#"{"title":"x"} {}"#, "goes on after its end"),
            ("{\"title\":\"\u{0}\"}", "control character"),
        ] {
            let message = message(read("application/json", body).await.unwrap_err());
            assert!(message.contains(says), "{body}: {message}");
        }
    }

    #[tokio::test]
    async fn rejects_bytes_that_are_not_text_and_nesting_without_end() {
        let not_text = read("application/json", &b"{\"title\":\"\xFF\"}"[..]).await.unwrap_err();
        assert!(message(not_text).contains("invalid unicode"));
        let deep = format!("{{\"title\":{}", "[".repeat(10_000));
        assert!(matches!(read("application/json", deep).await, Err(Fault::Malformed(_))));
    }

    #[tokio::test]
    async fn rejects_another_media_type() {
        for content_type in ["text/plain", "application/jsonp", "application/x-www-form-urlencoded"] {
            let refused = read(content_type, r#"{"title":"x"}"#).await.unwrap_err();
            assert_eq!(refused, Fault::MediaType { expected: "application/json" });
        }
    }

    #[tokio::test]
    async fn accepts_a_body_at_the_limit_and_rejects_one_past_it() {
        let of = |bytes: usize| format!("{{\"title\":\"{}\"}}", "x".repeat(bytes - 12));
        assert!(read("application/json", of(JSON_BYTES_MAX)).await.is_ok());
        let refused = read("application/json", of(JSON_BYTES_MAX + 1)).await.unwrap_err();
        assert_eq!(refused, Fault::TooLarge { max: JSON_BYTES_MAX });
    }

    #[test]
    fn texts_are_trimmed_and_bounded() {
        assert_eq!(text("title", "  Bike\n", 4).unwrap(), "Bike");
        assert_eq!(text("title", " ", 4), Err(Fault::Invalid("title is empty".into())));
        let long = Err(Fault::Invalid("title has more than 4 characters".into()));
        assert_eq!(text("title", "Bikes", 4), long);
        let control = Err(Fault::Invalid("title holds a control character".into()));
        assert_eq!(text("title", "a\u{0}b", 4), control);
        assert_eq!(text("title", "a\u{1b}b", 4), control);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), words in any::<String>()) {
            let _ = read_json::<Offer>(&bytes);
            let _ = read_json::<Offer>(words.as_bytes());
            let _ = crate::place::Place::parse(&words);
            if let Ok(text) = text("title", &words, 50) {
                prop_assert_eq!(super::text("title", &text, 50), Ok(text), "an accepted text stays as it is");
            }
        }

        #[test]
        fn json_that_is_almost_right_is_read_or_refused(
            title in "[a-z\"\\\\{}]{0,8}", price in "[0-9eE.+-]{0,8}", tail in "[ ,}\\]]{0,3}",
        ) {
            let body = format!("{{\"title\":\"{title}\",\"price\":{price}}}{tail}");
            match read_json::<Offer>(body.as_bytes()) {
                Ok(offer) => prop_assert_eq!(Some(offer.price), serde_json::from_str::<Offer>(&body).ok().map(|o| o.price)),
                Err(fault) => prop_assert!(matches!(fault, Fault::Malformed(_))),
            }
        }
    }
}
