//! `[contexts.NAME]` and `--context`.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::{
    super::{Config, Sources},
    env, file, problem, shown,
};

#[test]
fn a_context_counts_only_when_it_is_asked_for_and_then_over_the_environment() {
    let (mut sources, _file) = file(
        "[relay]\nlease = \"2s\"\n[contexts.staging]\nrelay.lease = \"7s\"\ndatabase.url = \"postgres://s/d\"\n\
         [contexts.production.relay]\nlease = \"8s\"\n[contexts.production.auth]\njwt_secret = 1234567890_1234567890_1234567890_99\n",
    );
    sources.environment = env(&[("DISPATCHER_RELAY__LEASE", "3s")]).environment;
    let lease = |sources: &Sources| Config::load(sources).unwrap().relay.lease;
    assert_eq!(lease(&sources), Duration::from_secs(3));
    sources.context = Some("staging".to_owned());
    assert_eq!(lease(&sources), Duration::from_secs(7));
    let config = Config::load(&sources).unwrap();
    let (value, origin) = shown(&config, "database.url");
    assert_eq!(value, "postgres://s/d");
    assert!(origin.to_string().ends_with(":5, context staging"), "{origin}");
    assert_eq!(
        lease(&sources.clone().with("relay.lease", "9s")),
        Duration::from_secs(9)
    );
    sources.context = Some("production".to_owned());
    assert_eq!(lease(&sources), Duration::from_secs(8));
    let config = Config::load(&sources).unwrap();
    // A secret that looks like a number stays as it was written, here too.
    assert_eq!(
        config.auth.jwt_secret.unwrap().expose_secret(),
        "1234567890_1234567890_1234567890_99"
    );
}

#[test]
fn a_context_that_is_not_there_and_a_wrong_key_in_one_that_nobody_asks_for_are_named() {
    let (wrong, _file) = file("[contexts.staging]\nrelay.leas = \"7s\"\n");
    let said = problem(&wrong);
    assert!(
        said.contains("contexts.staging.relay.leas") && said.contains("did you mean relay.lease"),
        "{said}"
    );
    let asking = |sources: Sources| {
        problem(&Sources {
            context: Some("stagin".to_owned()),
            ..sources
        })
    };
    let (there, _file) = file("[contexts.staging]\nrelay.lease = \"7s\"\n");
    assert!(asking(there).ends_with("has no context stagin: there are staging"));
    let (none, _file) = file("[relay]\nlease = \"7s\"\n");
    assert!(asking(none).ends_with("has no contexts: [contexts.stagin] would be one"));
    assert!(asking(Sources::default()).ends_with("give --config FILE as well"));
}
