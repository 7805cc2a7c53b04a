//! The only way in for JSON.

use serde::de::DeserializeOwned;

/// The largest request body of our own API, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest response of our own API that a client of ours reads, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How much of a path inside a document an error repeats, in bytes.
const ERROR_PATH_BYTES_MAX: usize = 128;

/// Why a body is not what it should be. No variant repeats a value that the sender wrote: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Longer than the limit; nothing was parsed.
    #[error("the body has {got} bytes, at most {max} are read: send less")]
    TooLong {
        /// The limit.
        max: usize,
        /// What came.
        got: usize,
    },
    /// Not JSON, or JSON followed by something else.
    #[error("the body is not one JSON document: see line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON of another shape: unknown, missing or doubled member, wrong type, value out of range.
    #[error("the body has another shape at {at}: {what}")]
    Shape {
        /// Path of the member, `.` for the document itself.
        at: String,
        /// What is wrong, in terms of names and types.
        what: String,
    },
}

/// Reads one document of at most `max` bytes. Duplicate members of our types are errors; depth is bounded.
///
/// # Errors
/// See [`JsonError`].
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, JsonError> {
    if bytes.len() > max {
        return Err(JsonError::TooLong { max, got: bytes.len() });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let at = bounded(&error.path().to_string());
        explain(at, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(".".to_owned(), &error))?;
    Ok(value)
}

fn explain(at: String, error: &serde_json::Error) -> JsonError {
    use serde_json::error::Category;
    match error.classify() {
        Category::Data => JsonError::Shape { at, what: without_values(&error.to_string()) },
        Category::Io | Category::Syntax | Category::Eof => {
            JsonError::Syntax { line: error.line(), column: error.column() }
        }
    }
}

/// Serde's messages about members name only members. Those about types and values quote the value, which may hold
/// anything, and end with what was expected; so they are cut from their end.
fn without_values(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(before, _)| before);
    let begins_with = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
    if begins_with(&["unknown field", "missing field", "duplicate field", "not base64"]) {
        return bounded(message);
    }
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if begins_with(&["invalid ", "unknown variant"]) => {
            bounded(&format!("expected {expected}"))
        }
        _ => "a value of the wrong form or out of its range".to_owned(),
    }
}

fn bounded(text: &str) -> String {
    let mut end = text.len().min(ERROR_PATH_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
