//! The form of a request to an OAuth endpoint: read in exactly one way.

use axum::body::Body;
use countersign_wire::codes::Code;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::OAuthError;

/// Bytes of a form: three tokens of the largest size, with room for names.
pub(crate) const FORM_BYTES_MAX: usize = 32 * 1024;
/// Parameters of a form.
pub(crate) const FORM_PARAMETERS_MAX: usize = 32;

/// The parameters of a form, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded` of at most [`FORM_BYTES_MAX`].
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, OAuthError> {
        let media_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return Err(OAuthError::form("the body must be application/x-www-form-urlencoded"));
        }
        let bytes = Limited::new(body, FORM_BYTES_MAX).collect().await.map_err(|error| match error
            .downcast_ref::<LengthLimitError>(
        ) {
            Some(_) => OAuthError::new(Code::BodyTooLarge, "the form is longer than 32 KiB"),
            None => OAuthError::form("the body ended before it was complete"),
        })?;
        Self::of(form_urlencoded::parse(&bytes.to_bytes()).into_owned().collect())
    }

    /// Takes parameters, of which only those that may occur more than once do so.
    pub(crate) fn of(parameters: Vec<(String, String)>) -> Result<Self, OAuthError> {
        if parameters.len() > FORM_PARAMETERS_MAX {
            return Err(OAuthError::form(format!("more than {FORM_PARAMETERS_MAX} parameters")));
        }
        for (position, (name, value)) in parameters.iter().enumerate() {
            // What was not UTF-8 was replaced; nothing that we read needs either.
            if value.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
                return Err(OAuthError::form("a parameter holds characters that no parameter may hold"));
            }
            let before = parameters.iter().take(position);
            if !MAY_REPEAT.contains(&name.as_str()) && before.map(|(name, _)| name).any(|other| other == name)
            {
                return Err(OAuthError::form("a parameter occurs twice"));
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter; one without a value counts as left out (RFC 6749 section 3.2).
    pub(crate) fn optional(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// A parameter that must be there.
    pub(crate) fn required(&self, name: &'static str) -> Result<&str, OAuthError> {
        self.optional(name).ok_or_else(|| OAuthError::form(format!("{name} is missing")))
    }

    /// Every value of a parameter that may repeat.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let values = self.0.iter().filter(move |(other, value)| other == name && !value.is_empty());
        values.map(|(_, value)| value.as_str())
    }
}

/// RFC 8693 section 2.1, RFC 8707 section 2.
const MAY_REPEAT: [&str; 2] = ["audience", "resource"];
