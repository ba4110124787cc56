//! The listener: pictures by URL, and pages where a person sees them side by side.

use std::{fmt::Write as _, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use uuid::Uuid;

use super::gallery::{Gallery, GalleryError, file_name};
use crate::messages::{ImageJobResult, ImageStyle};

/// Connections that the listener holds at once. Each is a descriptor, and the worker beside it needs some, too.
pub const MOST_CONNECTIONS: usize = 256;
/// For the head of a request, and between two requests: so long an idle connection is kept.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the headers of a request, in bytes.
pub const MOST_HEADER_BYTES: usize = 16 * 1024;

/// Jobs on the first page.
const NEWEST: usize = 20;

const HEAD: &str = "<!doctype html><html lang=ko><meta charset=utf-8><meta name=viewport content='width=device-width'>\
<title>content-worker</title><style>body{margin:2rem;font:16px/1.5 system-ui,sans-serif;background:#f4f4f5;color:#18181b}\
section{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem;margin-bottom:2rem}\
figure{margin:0}img{width:100%;height:auto;border-radius:6px;box-shadow:0 1px 4px #0003}\
h2{font:600 1rem ui-monospace,monospace}</style>";

/// `/{jobId}` and `/{jobId}/{style}.png`, for whoever knows the id, which nobody guesses; with `list_jobs` also `/`, which
/// tells anybody the newest ones.
pub fn router(gallery: Gallery, list_jobs: bool) -> Router {
    let router = if list_jobs {
        Router::new().route("/", get(newest))
    } else {
        Router::new()
    };
    router
        .route("/{job_id}", get(job))
        .route("/{job_id}/{file}", get(picture))
        .with_state(gallery)
}

async fn newest(State(gallery): State<Gallery>) -> Result<Html<String>, Refusal> {
    let mut page = format!("{HEAD}<h1>Newest jobs</h1>");
    for job_id in gallery.newest(NEWEST).await? {
        if let Some(result) = gallery.find(job_id).await? {
            show(&mut page, &result);
        }
    }
    Ok(Html(page))
}

async fn job(State(gallery): State<Gallery>, Path(job_id): Path<Uuid>) -> Result<Html<String>, Refusal> {
    let result = gallery.find(job_id).await?.ok_or(Refusal::NotFound)?;
    let mut page = HEAD.to_owned();
    show(&mut page, &result);
    Ok(Html(page))
}

async fn picture(
    State(gallery): State<Gallery>,
    Path((job_id, file)): Path<(Uuid, String)>,
) -> Result<impl IntoResponse, Refusal> {
    // Of the three names that there are; a key is never made from what was asked for.
    let style = ImageStyle::ALL
        .into_iter()
        .find(|style| file_name(*style) == file)
        .ok_or(Refusal::NotFound)?;
    let png = gallery.picture(job_id, style).await?.ok_or(Refusal::NotFound)?;
    let headers = [
        (header::CONTENT_TYPE, "image/png"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, png))
}

/// The three pictures of a job, or its error.
fn show(page: &mut String, result: &ImageJobResult) {
    let job_id = result.job_id;
    write!(
        page,
        "<h2><a href='/{job_id}'>{job_id}</a> {}</h2><section>",
        result.status.as_str()
    )
    .expect("writing to a String cannot fail");
    for image in &result.images {
        let (file, style) = (file_name(image.style), image.style.slug());
        // By our own path: the public URL may not lead here.
        write!(page, "<figure><a href='/{job_id}/{file}'><img src='/{job_id}/{file}' width=1200 height=628 alt='{style}'></a><figcaption>{style}</figcaption></figure>")
            .expect("writing to a String cannot fail");
    }
    if let Some(error) = &result.error {
        let text = error.replace('&', "&amp;").replace('<', "&lt;");
        write!(page, "<p>{text}</p>").expect("writing to a String cannot fail");
    }
    page.push_str("</section>");
}

/// What is answered instead.
enum Refusal {
    NotFound,
    Gallery(GalleryError),
}

impl From<GalleryError> for Refusal {
    fn from(error: GalleryError) -> Self {
        Self::Gallery(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "there is no such picture\n").into_response(),
            Self::Gallery(error) => {
                tracing::warn!(%error, "the pictures cannot be read");
                (StatusCode::SERVICE_UNAVAILABLE, "the pictures cannot be read now\n").into_response()
            }
        }
    }
}
