//! Scripts, styles and the icon, inside the binary: the console needs nothing from anywhere else.
//!
//! An address carries a fingerprint of the content, so that it can be kept for ever and a new version is another
//! address. What is not ours is listed, with its licence, in `assets/console/README.md`.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::LazyLock,
};

use axum::{
    extract::{Path, RawQuery},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::http::{catalogue::Code, etag, problem::Problem};

struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
    /// Of the content; another compiler may make another one, which costs a download.
    fingerprint: String,
}

macro_rules! asset {
    ($name:literal, $media_type:literal) => {{
        let bytes = include_bytes!(concat!("../../../assets/console/", $name)).as_slice();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Asset {
            name: $name,
            media_type: $media_type,
            bytes,
            fingerprint: format!("{:016x}", hasher.finish()),
        }
    }};
}

static ASSETS: LazyLock<[Asset; 7]> = LazyLock::new(|| {
    [
        asset!("console.css", "text/css; charset=utf-8"),
        asset!("console.js", "text/javascript; charset=utf-8"),
        asset!("favicon.svg", "image/svg+xml"),
        asset!("htmx.min.js", "text/javascript; charset=utf-8"),
        asset!("htmx-sse.min.js", "text/javascript; charset=utf-8"),
        asset!("uplot.min.css", "text/css; charset=utf-8"),
        asset!("uplot.min.js", "text/javascript; charset=utf-8"),
    ]
});

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// The address of an asset, for a page.
pub(super) fn href(name: &str) -> String {
    let asset = find(name).expect("templates name assets that exist");
    format!("/assets/{name}?v={}", asset.fingerprint)
}

/// `GET /assets/{name}`. Needs no log-in: the page of the log-in has a style, too.
pub(super) async fn show(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asset = find(&name).ok_or_else(|| Problem::new(Code::NoSuchRoute))?;
    let etag = format!("\"{}\"", asset.fingerprint);
    // During a rolling update a page can ask another version for its own assets: what comes is not kept.
    let named = query.as_deref().and_then(|query| query.strip_prefix("v=")) == Some(&*asset.fingerprint);
    let keep = if named {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let fixed = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static(keep)),
        (header::ETAG, HeaderValue::from_str(&etag).expect("hexadecimal")),
    ];
    Ok(if etag::is_known(&etag, &headers) {
        (StatusCode::NOT_MODIFIED, fixed).into_response()
    } else {
        (fixed, asset.bytes).into_response()
    })
}
