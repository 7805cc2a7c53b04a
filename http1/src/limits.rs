//! How much is read before it is too much.

use std::mem::MaybeUninit;

use countersign_request::{Field, HEADER_COUNT_MAX};

/// Limits of one connection. What a request may hold besides is for `countersign-request` to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line or status line, header lines and the empty line after them, in bytes.
    pub head_bytes_max: usize,
    /// Header lines of a head; never more than [`HEADER_COUNT_MAX`].
    pub header_count_max: usize,
    /// A line with the size of a chunk, its extensions and line end included, in bytes.
    pub chunk_line_bytes_max: usize,
    /// Chunk extensions of one body together, in bytes: nobody reads them.
    pub chunk_extension_bytes_max: usize,
    /// Trailer section of a body, in bytes.
    pub trailer_bytes_max: usize,
    /// Lines of a trailer section; never more than 64.
    pub trailer_count_max: usize,
}

impl Limits {
    /// What no ordinary client comes near.
    pub const DEFAULT: Self = Self {
        head_bytes_max: 40 * 1024,
        header_count_max: HEADER_COUNT_MAX,
        chunk_line_bytes_max: 256,
        chunk_extension_bytes_max: 4 * 1024,
        trailer_bytes_max: 4 * 1024,
        trailer_count_max: 16,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Room for the fields of a head, on the stack and not written before a field is: pass a new one with every call.
#[derive(Debug)]
pub struct Slots<'b>([MaybeUninit<Field<'b>>; HEADER_COUNT_MAX]);

impl<'b> Slots<'b> {
    /// Empty ones.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HEADER_COUNT_MAX])
    }

    pub(crate) fn at_most(&mut self, count: usize) -> &mut [MaybeUninit<Field<'b>>] {
        self.0.get_mut(..count.min(HEADER_COUNT_MAX)).unwrap_or_default()
    }
}

impl Default for Slots<'_> {
    fn default() -> Self {
        Self::new()
    }
}
