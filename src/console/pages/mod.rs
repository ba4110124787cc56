//! The console's pages: one file a page, its template beside it.
//!
//! A page is complete without JavaScript: forms are sent, pages are loaded. `assets/console/console.js` makes
//! numbers live and charts readable, and nothing needs it. [`words`] has every text, in two languages; [`chrome`]
//! is around every page; [`error`] makes a page of a failure.

mod assets;
mod audits;
mod badge;
mod chrome;
mod control;
mod dead;
mod error;
mod form;
mod format;
mod live;
mod log;
mod login;
mod message;
mod messages;
mod overview;
mod replay_new;
mod replays;
mod settings;
mod words;

use axum::{
    Router,
    routing::{get, post},
};

use super::ConsoleState;

pub(super) use error::as_page;

/// The routes of all pages.
pub(super) fn routes() -> Router<ConsoleState> {
    Router::new()
        .route("/", get(overview::show))
        .route("/live", get(live::follow))
        .route("/history.json", get(overview::history))
        .route("/outbox", get(messages::show))
        .route("/outbox/{id}", get(message::show))
        .route("/dead", get(dead::show).post(dead::decide))
        .route("/replays", get(replays::list).post(replay_new::create))
        .route("/replays/new", get(replay_new::new))
        .route("/replays/{id}", get(replays::show))
        .route("/replays/{id}/{act}", post(replays::change))
        .route("/audits", get(audits::list))
        .route("/audits/{id}", get(audits::show))
        .route("/control", get(control::show))
        .route("/control/pause", post(control::pause))
        .route("/control/resume", post(control::resume))
        .route("/control/retain", post(control::retain))
        .route("/log", get(log::show))
        .route("/settings", get(settings::show))
        .route("/language", get(login::switch))
        .route("/login", get(login::show))
        .route("/assets/{name}", get(assets::show))
}
