use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Desk, send};
use crate::support::token_for;

/// The roles in their order.
const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

/// Every route of the admin API: method, path, body, and the role that it needs.
fn routes() -> Vec<(Method, &'static str, Option<Value>, &'static str)> {
    let act = |path, body, role| (Method::POST, path, Some(body), role);
    let read = |path, role| (Method::GET, path, None, role);
    let resolve = json!({"class": "none-such", "reason": "a test"});
    let selection = json!({"user": Uuid::nil()});
    vec![
        read("/admin/api/me", "viewer"),
        read("/admin/api/overview", "viewer"),
        read("/admin/api/messages", "viewer"),
        read("/admin/api/messages/{id}", "viewer"),
        read("/admin/api/messages/export/{format}", "viewer"),
        read("/admin/api/dead-letters", "viewer"),
        read("/admin/api/dead-letters/groups", "viewer"),
        act("/admin/api/dead-letters/retry", resolve.clone(), "operator"),
        act("/admin/api/dead-letters/discard", resolve, "operator"),
        read("/admin/api/replays", "viewer"),
        act(
            "/admin/api/replays",
            json!({"selection": selection, "reason": "a test", "operation_id": "x"}),
            "operator",
        ),
        act(
            "/admin/api/replays/preview",
            json!({"selection": selection}),
            "operator",
        ),
        read("/admin/api/replays/{id}", "viewer"),
        (Method::POST, "/admin/api/replays/{id}/pause", None, "operator"),
        (Method::POST, "/admin/api/replays/{id}/resume", None, "operator"),
        (Method::POST, "/admin/api/replays/{id}/cancel", None, "operator"),
        read("/admin/api/audits", "viewer"),
        read("/admin/api/audits/{id}", "viewer"),
        read("/admin/api/pause", "viewer"),
        act("/admin/api/pause", json!({"reason": "a test"}), "operator"),
        act("/admin/api/resume", json!({}), "operator"),
        act("/admin/api/resume", json!({"accept_identity": true}), "admin"),
        read("/admin/api/retain", "admin"),
        act("/admin/api/retain", json!({}), "admin"),
        read("/admin/api/acts", "viewer"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_it_may_and_is_refused_the_rest() {
    let desk = Desk::new().await;
    let request = |method: &Method, path: &str, body: &Option<Value>| {
        // Nobody's: an audit's is a UUID, the others' may be.
        let id = if path.contains("/audits/") {
            &*Uuid::nil().to_string()
        } else {
            "1"
        };
        let request = desk.request(method.clone(), &path.replace("{id}", id).replace("{format}", "csv"));
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    };
    let tokens = [&desk.viewer, &desk.operator, &desk.admin];
    let user = token_for(Uuid::new_v4());
    for (method, path, body, needed) in routes() {
        send(request(&method, path, &body))
            .await
            .failed(401, "unauthorized", "");
        let refused = send(request(&method, path, &body).bearer_auth(&user)).await;
        refused.failed(403, "forbidden", "user");
        for (role, token) in ROLES.into_iter().zip(tokens) {
            let place = |role: &str| ROLES.iter().position(|known| *known == role);
            if place(role) < place(needed) {
                let refused = send(request(&method, path, &body).bearer_auth(token)).await;
                refused.failed(403, "forbidden", &format!("the token's is {role}"));
            }
        }
    }
    // Of all that was refused, nothing was done.
    let acts: i64 = sqlx::query_scalar("select count(*) from operator_acts")
        .fetch_one(&desk.stage.pool)
        .await
        .expect("a number");
    assert_eq!(acts, 0);
    for (method, path, body, needed) in routes() {
        for (role, token) in ROLES.into_iter().zip(tokens) {
            if role == needed || role == "admin" {
                let answer = send(request(&method, path, &body).bearer_auth(token)).await;
                assert!(
                    [200, 404].contains(&answer.status),
                    "{role} {method} {path}: {answer:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route_of_the_table_and_no_other() {
    let desk = Desk::new().await;
    let document = send(desk.request(Method::GET, "/openapi.json")).await;
    let paths = document.ok()["paths"].as_object().expect("paths");
    let described: BTreeSet<String> = paths
        .iter()
        .filter(|(path, _)| path.starts_with("/admin/"))
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods");
            let methods = methods.keys().filter(|key| *key != "servers");
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let tried: BTreeSet<String> = routes()
        .into_iter()
        .map(|(method, path, ..)| format!("{method} {path}"))
        .collect();
    assert_eq!(described, tried);
}
