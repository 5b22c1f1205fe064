//! What reads as an enrollment bundle is spelled in one way, and what reads as a request for a
//! certificate is written the same.

#![no_main]

use doorward::ca::bundle::{Bundle, PREFIX};
use doorward::ca::exchange::{EnrollRequest, Granted, RenewRequest};
use doorward::domain::base64url;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // As it is, and as the JSON of a bundle: base64 would hide it from the fuzzer.
    let wrapped = format!("{PREFIX}{}", base64url::encode(input));
    for text in std::str::from_utf8(input).into_iter().chain([wrapped.as_str()]) {
        if let Ok(bundle) = Bundle::parse(text) {
            assert_eq!(bundle.reveal().expect("a bundle that was read").as_str(), text);
            assert!(!format!("{bundle:?}").contains(bundle.secret.reveal().as_str()));
        }
    }
    if let Ok(request) = EnrollRequest::parse(input) {
        if let Ok(body) = request.reveal() {
            let again = EnrollRequest::parse(&body).expect("a request that was written");
            assert_eq!((again.id, again.csr), (request.id, request.csr));
        }
    }
    let _ = RenewRequest::parse(input);
    let _ = Granted::parse(input);
});
