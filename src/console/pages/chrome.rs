//! What is around every page: its head, the sections, who is signed in, the banner of a pause.

use askama::Template;
use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::{Html, IntoResponse as _, Response},
};
use chrono::Utc;

use super::{assets, format, words::Lang};
use crate::{
    console::{ConsoleState, auth::Operator},
    http::{auth::Role, catalogue::Code, problem::Problem},
    outbox::control::Pause,
};

/// The sections, in the order of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Messages,
    Dead,
    Replays,
    Audits,
    Control,
    Log,
    Settings,
}

impl Section {
    const ALL: [Self; 8] = [
        Self::Overview,
        Self::Messages,
        Self::Dead,
        Self::Replays,
        Self::Audits,
        Self::Control,
        Self::Log,
        Self::Settings,
    ];

    pub fn href(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Messages => "/outbox",
            Self::Dead => "/dead",
            Self::Replays => "/replays",
            Self::Audits => "/audits",
            Self::Control => "/control",
            Self::Log => "/log",
            Self::Settings => "/settings",
        }
    }

    pub fn name(self, t: Lang) -> &'static str {
        match self {
            Self::Overview => t.nav_overview(),
            Self::Messages => t.nav_messages(),
            Self::Dead => t.nav_dead(),
            Self::Replays => t.nav_replays(),
            Self::Audits => t.nav_audits(),
            Self::Control => t.nav_control(),
            Self::Log => t.nav_log(),
            Self::Settings => t.nav_settings(),
        }
    }
}

/// A pause, as the banner tells it.
#[derive(Debug, Clone)]
pub(super) struct PauseBanner {
    pub by: String,
    pub span: String,
    pub reason: String,
}

/// Around a page.
#[derive(Debug)]
pub(super) struct Chrome {
    pub t: Lang,
    pub title: String,
    pub section: Option<Section>,
    /// None on the page of the log-in.
    pub who: Option<Who>,
    pub pause: Option<PauseBanner>,
    /// Which one is operated on: host and name.
    pub database: String,
    /// Of this page, to come back to from the language's switch.
    pub here: String,
    /// What has just been done, or why it was not.
    pub notice: Option<Notice>,
}

/// Who is signed in.
#[derive(Debug)]
pub(super) struct Who {
    pub name: String,
    pub role: Role,
}

/// Shown once on top of a page.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    /// `good`, `warn` or `bad`.
    pub tone: &'static str,
    pub text: String,
}

impl Chrome {
    /// For a page of a section, by whoever is signed in.
    pub fn new(console: &ConsoleState, headers: &HeaderMap, operator: &Operator, here: &str) -> Self {
        let t = Lang::of(headers);
        Self {
            t,
            title: String::new(),
            section: None,
            who: Some(Who {
                name: operator.name.clone(),
                role: operator.role,
            }),
            pause: pause(t, console),
            database: database(console),
            here: here.to_owned(),
            notice: None,
        }
    }

    /// For a page without anybody signed in.
    pub fn anonymous(console: &ConsoleState, headers: &HeaderMap, here: &str) -> Self {
        Self {
            t: Lang::of(headers),
            title: String::new(),
            section: None,
            who: None,
            pause: None,
            database: database(console),
            here: here.to_owned(),
            notice: None,
        }
    }

    /// Names it.
    #[must_use]
    pub fn titled(mut self, section: impl Into<Option<Section>>, title: impl Into<String>) -> Self {
        self.section = section.into();
        self.title = title.into();
        self
    }

    /// Address and name of each, and whether the page is of it.
    pub fn sections(&self) -> [(&'static str, &'static str, bool); 8] {
        Section::ALL.map(|section| (section.href(), section.name(self.t), self.section == Some(section)))
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    pub fn asset(&self, name: &str) -> String {
        assets::href(name)
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Whether whoever is signed in may act.
    pub fn may_act(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.role >= Role::Operator)
    }

    /// Whether whoever is signed in may drop what is old.
    pub fn may_drop(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.role >= Role::Admin)
    }

    pub fn role(&self) -> &'static str {
        match self.who.as_ref().map(|who| who.role) {
            Some(Role::Admin) => self.t.role_admin(),
            Some(Role::Operator) => self.t.role_operator(),
            _ => self.t.role_viewer(),
        }
    }

    /// The address that switches to the other language and comes back.
    pub fn switch(&self) -> String {
        let other = match self.t {
            Lang::En => Lang::Ko,
            Lang::Ko => Lang::En,
        };
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("to", other.code())
            .append_pair("next", &self.here)
            .finish();
        format!("/language?{query}")
    }
}

fn pause(t: Lang, console: &ConsoleState) -> Option<PauseBanner> {
    let look = console.monitor.newest()?;
    Some(PauseBanner::of(t, look.seen.as_ref()?.pause.as_ref()?))
}

impl PauseBanner {
    pub fn of(t: Lang, pause: &Pause) -> Self {
        Self {
            by: pause.by.clone(),
            span: format::since(t, pause.since, Utc::now()),
            reason: pause.reason.clone(),
        }
    }
}

/// Host and name, and no more: whoever acts has to know which one it is.
fn database(console: &ConsoleState) -> String {
    let options = console.pool.connect_options();
    let name = options.get_database().unwrap_or_default();
    format!("{name} @ {}:{}", options.get_host(), options.get_port())
}

/// Scripts and styles from here and from nowhere else, none of them inside a page; nothing may frame it.
pub(super) const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'",
);

/// A page, rendered whole.
pub(super) fn page(template: &impl Template) -> Result<Response, Problem> {
    let html = template
        .render()
        .map_err(|error| Problem::new(Code::Internal).cause(error))?;
    Ok(([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(html)).into_response())
}
