//! Who calls: bearer tokens.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Who a token speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// `sub`.
    pub user_id: Uuid,
    /// `role`.
    pub role: Role,
}

/// The claim `role`: each one may do what the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Own jobs; also when the claim is absent
    #[default]
    User,
    /// See what operators see
    Viewer,
    /// Pause, replay, retry
    Operator,
    /// Everything
    Admin,
}
