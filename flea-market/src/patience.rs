//! How long a service waits for another one. A preview is a nicety, so it is not waited for long.

use std::time::Duration;

/// For previews of sellers beside a list.
pub const PREVIEWS: Duration = Duration::from_millis(800);
/// For telling subscribers of a new advertisement.
pub const NEWS: Duration = Duration::from_secs(2);
/// For whether somebody or something exists.
pub const LOOKUP: Duration = Duration::from_secs(2);
