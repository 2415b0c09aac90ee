//! No tests yet.
