//! The Content Service's side, small but real.

pub mod brief;
pub mod color;
pub mod design;
pub mod scene;
pub mod text;
