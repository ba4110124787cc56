//! States as an icon, a word and a colour: the colour never stands alone.

use askama::Template;

use super::words::Lang;
use crate::{
    console::monitor::verdict::Tone,
    outbox::{dead_letters::Resolution, query::MessageState, replays::ReplayState},
};

/// The class `tone-…` of the style sheet.
pub(super) fn tone_class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Busy => "busy",
        Tone::Warn => "warn",
        Tone::Bad => "bad",
    }
}

/// Each tone has a shape of its own: a tick, an arrow, a triangle, a cross.
pub(super) fn icon(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => {
            r#"<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="8"/><path class="hole" d="M6 10.2l2.8 2.8L14 7.6"/></svg>"#
        }
        Tone::Busy => {
            r#"<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="8"/><path class="hole" d="M6 10h7.4M10.6 6.8L13.8 10l-3.2 3.2"/></svg>"#
        }
        Tone::Warn => {
            r#"<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><path d="M10 1.8l8.8 15.6H1.2z"/><path class="hole" d="M10 7.4v4.4M10 14.2v.6"/></svg>"#
        }
        Tone::Bad => {
            r#"<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><path d="M6.6 2h6.8L18 6.6v6.8L13.4 18H6.6L2 13.4V6.6z"/><path class="hole" d="M7 7l6 6M13 7l-6 6"/></svg>"#
        }
    }
}

#[derive(Template)]
#[template(
    source = r#"<span class="badge tone-{{ tone }}">{{ icon|safe }}{{ word }}</span>"#,
    ext = "html"
)]
struct Badge<'a> {
    tone: &'static str,
    icon: &'static str,
    word: &'a str,
}

/// As HTML.
pub(super) fn badge(tone: Tone, word: &str) -> String {
    let badge = Badge {
        tone: tone_class(tone),
        icon: icon(tone),
        word,
    };
    badge.render().expect("writing to a String cannot fail")
}

/// A message's state.
pub(super) fn of_message(t: Lang, state: MessageState) -> String {
    match state {
        MessageState::Published => badge(Tone::Good, t.m_published()),
        MessageState::Dead => badge(Tone::Bad, t.m_dead()),
        MessageState::Pending => badge(Tone::Busy, t.m_pending()),
    }
}

/// A replay's state.
pub(super) fn of_replay(t: Lang, state: ReplayState) -> String {
    match state {
        ReplayState::Running => badge(Tone::Busy, t.r_running()),
        ReplayState::Paused => badge(Tone::Warn, t.r_paused()),
        ReplayState::Cancelled => badge(Tone::Bad, t.r_cancelled()),
        ReplayState::Done => badge(Tone::Good, t.r_done()),
    }
}

/// What was decided about a dead letter.
pub(super) fn of_dead(t: Lang, resolution: Option<Resolution>) -> String {
    match resolution {
        Some(Resolution::Retried) => badge(Tone::Good, t.x_retried()),
        Some(Resolution::Discarded) => badge(Tone::Busy, t.x_discarded()),
        None => badge(Tone::Warn, t.x_undecided_one()),
    }
}
