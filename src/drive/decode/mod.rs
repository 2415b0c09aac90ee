//! What a server's answer says: token events, the end, the failure.
//!
//! Invariants: the result does not depend on how the bytes were cut into pieces; no input panics;
//! memory is bounded by [`sse::EVENT_MOST`]. The ordinary event in the middle of a stream is only
//! scanned for the few marks that matter; JSON is parsed where an event looks in any way special.
//!
//! The framing is our own and not a crate's: the crates for it wrap an async body and own each
//! event's text, while this must be fed byte by byte in tests and must not allocate per token.

mod event;
mod sse;
mod stream;
mod whole;

pub use stream::{Failure, Finished, StreamDecoder, StreamFormat, TokenEvent};
pub use whole::{classify_status, read_whole};
