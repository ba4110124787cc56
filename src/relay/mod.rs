//! The relay.
pub mod holes;
