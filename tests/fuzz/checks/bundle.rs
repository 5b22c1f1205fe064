//! What reads as an enrollment bundle is spelled in one way, and what is said at the enrollment desk
//! is written the same as it was read.

use doorward::ca::bundle::{Bundle, PREFIX};
use doorward::ca::csr;
use doorward::ca::exchange::{EnrollRequest, Granted, RenewRequest};
use doorward::domain::base64url;

pub(super) fn check(input: &[u8]) {
    // As it is, and as the JSON of a bundle: base64 would hide it from the fuzzer.
    let wrapped = format!("{PREFIX}{}", base64url::encode(input));
    for text in std::str::from_utf8(input).into_iter().chain([wrapped.as_str()]) {
        if let Ok(bundle) = Bundle::parse(text) {
            assert_eq!(bundle.reveal().expect("a bundle that was read").as_str(), text);
            let secret = bundle.secret.reveal();
            assert!(bundle.name.as_str() == *secret || !format!("{bundle:?}").contains(secret.as_str()));
            assert!(bundle.secret.has_hash(&bundle.secret.hash()));
        }
    }
    if let Ok(request) = EnrollRequest::parse(input) {
        let _ = csr::public_key(request.csr.as_bytes()).is_ok();
        // Escapes may be spelled out, so it can grow beyond what a request may be.
        if let Ok(body) = request.reveal() {
            let again = EnrollRequest::parse(&body).expect("a request that was written");
            assert_eq!((again.id, again.csr), (request.id, request.csr));
            assert!(again.secret == request.secret);
        }
    }
    if let Ok(request) = RenewRequest::parse(input) {
        let body = serde_json::to_vec(&request).expect("a request is JSON");
        assert!(RenewRequest::parse(&body).map_or(body.len() > input.len(), |again| again == request));
    }
    if let Ok(granted) = Granted::parse(input) {
        let body = serde_json::to_vec(&granted).expect("an answer is JSON");
        assert!(Granted::parse(&body).map_or(body.len() > input.len(), |again| again == granted));
    }
}
