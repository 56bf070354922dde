//! PLACEMENT. Which node owns a key.
