//! What counts as an address here is the same to the library that will fetch from it, or to a browser.

use doorward::domain::gateway_address::{GatewayAddress, HostName};
use doorward::domain::origin::Origins;
use doorward::token::location::KeyUrl;
use doorward::webhook::url::WebhookUrl;
use url::{Host, Url};

pub(super) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(address) = GatewayAddress::parse(text) {
        assert_eq!(GatewayAddress::parse(&address.to_string()), Ok(address));
    }
    if let Ok(name) = HostName::parse(text)
        && let Ok(url) = Url::parse(&format!("https://{name}/"))
    {
        assert_eq!(url.host(), Some(Host::Domain(name.as_str())), "resolvers read a name as an address");
    }
    if Origins::parse(&[text]).is_ok()
        && let Ok(url) = Url::parse(text)
        && matches!(url.scheme(), "http" | "https")
    {
        assert_eq!(url.origin().ascii_serialization(), text, "browsers spell it in another way");
    }
    // Whom the library will not ask is told nothing.
    let Ok(other) = Url::parse(text) else { return };
    if let Ok(url) = WebhookUrl::parse(text) {
        assert_eq!(other.scheme() == "https", url.https);
        assert!(url.https || is_loopback(&other));
        let same = match other.host() {
            Some(Host::Domain(name)) => name == url.host,
            Some(Host::Ipv4(address)) => url.host.parse() == Ok(address),
            Some(Host::Ipv6(address)) => url.host.parse() == Ok(address),
            None => false,
        };
        assert!(same, "{url:?}");
        assert_eq!(other.port_or_known_default(), Some(url.port));
        assert!(other.username().is_empty() && other.password().is_none() && other.fragment().is_none());
    }
    if let Ok(url) = KeyUrl::parse(text) {
        assert_eq!(other.scheme() == "https", url.is_https());
        assert!(url.is_https() || is_loopback(&other));
        assert!(other.username().is_empty() && other.password().is_none() && other.fragment().is_none());
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}
