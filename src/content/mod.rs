//! The Content Service's side of the contract, small but real: the program `content-worker`.
//!
//! [`worker`] takes a record of `image-job-topic` → [`request`] reads it → [`brief`] is what is to be drawn, with
//! the [`logo`] if it may be fetched → [`design`] lays it out in three ways, with [`color`] and [`text`] →
//! [`scene`] draws → [`gallery`] keeps the pictures with the answer → [`kafka`] sends the answer to
//! `image-job-result-topic` → [`pages`] serves the pictures.
//!
//! It is here to be copied by the team that owns the real service, so it takes nothing from this program but
//! the two messages; the program `content-worker` also serves by the dispatcher's accept loop.

pub mod brief;
pub mod color;
pub mod design;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod gallery;
pub mod kafka;
pub mod logo;
pub mod pages;
pub mod request;
pub mod scene;
pub mod text;
pub mod worker;
