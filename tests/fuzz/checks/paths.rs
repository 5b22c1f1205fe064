//! A request line that passes names one endpoint, byte for byte; what the gateway sends on passes the
//! connector, which reads it by itself, and no credential passes in a query.

use doorward::dialect::paths::{check_query, find, has_credential, is_answered_here, upstream_path};
use doorward::domain::endpoint::Endpoint;
use doorward::domain::route::is_alias;
use doorward::overlay::protocol::is_name;
use doorward::overlay::protocol::passage::{self, Asked};
use http::{Method, Uri};

/// The method, a space, the target.
pub(super) fn check(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b' ');
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    at_the_gateway(&method, &uri);
    at_the_connector(&method, &uri);
}

fn at_the_gateway(method: &Method, uri: &Uri) {
    let query = uri.query().unwrap_or_default();
    let credential = has_credential(query);
    // Another reader of queries.
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let shown = value.trim().starts_with("dw_") || name.trim().starts_with("dw_");
        assert!(credential || !shown || name.contains(';') || value.contains(';'), "{name} {value}");
    }
    let Ok(route) = find(method, uri.path()) else { return };
    match &route.model_id {
        Some(id) => {
            assert!(route.endpoint == Endpoint::OpenAiModel && is_alias(id));
            assert!(!id.contains("//") && !id.split('/').any(|part| matches!(part, "." | "..")));
        }
        None => assert_eq!(uri.path(), upstream_path(route.endpoint)),
    }
    let Ok(kept) = check_query(route.endpoint, uri.query()) else { return };
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        assert!(!name.eq_ignore_ascii_case("model"));
    }
    let kept = kept.as_deref();
    assert!(kept.is_none_or(|kept| kept == "beta" || kept.starts_with("beta=")));
    if !credential && !is_answered_here(route.endpoint) {
        passage::write("gpu-1", route.endpoint, kept).expect("what passes the gateway passes the connector");
    }
}

fn at_the_connector(method: &Method, uri: &Uri) {
    let Ok(Asked::Backend(target)) = passage::read(method, uri) else { return };
    assert!(is_name(&target.backend));
    assert_eq!(target.path(), uri.path());
    assert!(target.endpoint != Endpoint::OpenAiModel && *method == passage::method(target.endpoint));
    assert_eq!(target.query.as_deref(), uri.query());
    assert!(!target.query.as_deref().is_some_and(has_credential));
    let written = passage::write(&target.backend, target.endpoint, target.query.as_deref()).expect("it was read");
    assert_eq!(passage::read(method, &written), Ok(Asked::Backend(target)));
}
