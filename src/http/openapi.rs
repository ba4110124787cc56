//! The OpenAPI 3.1 document. Paths, parameters and good answers come from the handlers; every problem
//! comes from the catalogue, so that the two cannot disagree.

use std::collections::BTreeMap;

use axum::{Router, http::header, routing::get};
use bytes::Bytes;
use serde_json::Value;
use utoipa::{
    OpenApi,
    openapi::{
        Content, Object, Ref, RefOr, Type,
        example::ExampleBuilder,
        header::{Header, HeaderBuilder},
        path::{Operation, PathItem},
        response::{Response, ResponseBuilder},
        schema::SchemaType,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    catalogue::{self, Code},
    content_generation, health, jobs,
    problem::{self, ProblemBody},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Image job dispatcher",
        description = "Accepts content-generation jobs for event drafts and hands every accepted one to Kafka.",
    ),
    servers((url = "/", description = "The public listener, `http.listen`")),
    components(schemas(ProblemBody<'_>, catalogue::Code)),
    security(("bearer" = [])),
    tags(
        (name = "jobs", description = "Accepting a job, and what became of it"),
        (name = "health", description = "For the balancer; also on the operators' listener"),
        (name = "problems", description = "The pages that the `type` of a problem refers to"),
    ),
)]
struct Base;

/// What the routers start from: everything but the paths.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Base::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "A JWT whose `sub` is the user's id (a UUID) and which has an `exp`, signed with the configured key",
        ))
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    document
}

/// Any request can get these.
const ANYWHERE: &[Code] = &[
    Code::MalformedRequest,
    Code::RequestTimeout,
    Code::UriTooLong,
    Code::HeadersTooLarge,
    Code::Internal,
];

/// Operations by their id, and the problems of each beyond those of [`ANYWHERE`].
pub type Problems = &'static [(&'static str, &'static [Code])];

/// Those of the public listener.
const PROBLEMS: Problems = &[
    ("accept_job", content_generation::PROBLEMS),
    ("read_job", jobs::PROBLEMS),
    ("follow_job", jobs::PROBLEMS),
    ("livez", &[]),
    ("readyz", health::READYZ_PROBLEMS),
    ("list_problems", &[]),
    ("show_problem", &[Code::NoSuchRoute]),
];

/// The document of the public listener.
pub fn document() -> utoipa::openapi::OpenApi {
    complete(super::public_api().into_openapi(), PROBLEMS)
}

/// Adds what every operation has: the request's id, and its problems from the catalogue.
pub fn complete(mut document: utoipa::openapi::OpenApi, problems: &[(&str, &[Code])]) -> utoipa::openapi::OpenApi {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for (name, response) in &mut operation.responses.responses {
            let RefOr::T(response) = response else { continue };
            response
                .headers
                .insert("X-Request-Id".to_owned(), RefOr::T(request_id_header()));
            debug_assert!(name.starts_with(['2', '3']), "problems come from the catalogue");
        }
        let id = operation.operation_id.as_deref().unwrap_or_default();
        let Some((_, codes)) = problems.iter().find(|(name, _)| *name == id) else {
            unreachable!("the operation {id} is not in the table of problems");
        };
        let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
        for code in ANYWHERE.iter().chain(*codes) {
            let of_status = by_status.entry(code.entry().status.as_u16()).or_default();
            if !of_status.contains(code) {
                of_status.push(*code);
            }
        }
        for (status, codes) in by_status {
            operation
                .responses
                .responses
                .insert(status.to_string(), RefOr::T(problem_response(&codes)));
        }
    }
    document
}

/// `/openapi.json` and the page under `/docs`, whose scripts and styles are in the binary.
pub(super) fn routes(document: &utoipa::openapi::OpenApi) -> Router {
    let text = Bytes::from(serde_json::to_vec(document).expect("a document always serialises"));
    let show = move || async move { ([(header::CONTENT_TYPE, "application/json")], text) };
    Router::new()
        .route("/openapi.json", get(show))
        .merge(SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none")))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .filter_map(Option::as_mut)
}

/// One status: all the problems that come with it, with an example of each.
fn problem_response(codes: &[Code]) -> Response {
    let titles: Vec<_> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.entry().code, code.entry().title))
        .collect();
    let mut content = Content::new(Some(Ref::from_schema_name("Problem")));
    for code in codes {
        let e = code.entry();
        let body = problem::body(*code, e.meaning, "/api/...", "0193a5c7-8d1e-7b3a-9f52-3c1d5e7a9b10");
        let value: Value = serde_json::from_slice(&body).expect("the body is JSON");
        let example = ExampleBuilder::new().summary(e.title).value(Some(value)).build();
        content.examples.insert(e.code.to_owned(), RefOr::T(example));
    }
    let mut response = ResponseBuilder::new()
        .description(titles.join("; "))
        .content(problem::MEDIA_TYPE, content)
        .header("X-Request-Id", request_id_header());
    for (name, description, kind) in codes.iter().filter_map(|code| header_of(*code)) {
        response = response.header(name, described(description, kind));
    }
    response.build()
}

/// The header that always comes with a problem.
fn header_of(code: Code) -> Option<(&'static str, &'static str, Type)> {
    match code {
        Code::Unauthorized => Some((
            "WWW-Authenticate",
            "`Bearer`, and why a token was refused",
            Type::String,
        )),
        Code::RateLimited
        | Code::IdempotencyInProgress
        | Code::Overloaded
        | Code::DatabaseUnavailable
        | Code::OutcomeUnknown
        | Code::KeysUnavailable
        | Code::ShuttingDown => Some(("Retry-After", "In seconds", Type::Integer)),
        _ => None,
    }
}

fn request_id_header() -> Header {
    described(
        "The request's own, when it was well-formed, else a new one",
        Type::String,
    )
}

fn described(description: &str, kind: Type) -> Header {
    HeaderBuilder::new()
        .schema(Some(Object::with_type(SchemaType::Type(kind))))
        .description(Some(description))
        .build()
}
