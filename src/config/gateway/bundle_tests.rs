use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType};
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use super::*;
use crate::config::{Config, Problem, load};

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let sextet = |six: &[u8]| (0..6).fold(0, |number, at| number * 2 + six.get(at).copied().unwrap_or(0));
    bits.chunks(6).map(|six| char::from(alphabet[usize::from(sextet(six))])).collect()
}

fn url(bytes: &[u8]) -> String {
    encode(bytes, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
}

fn padded(bytes: &[u8]) -> String {
    let mut text = encode(bytes, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// A root as SPIRE makes it, changed; its entry in a bundle.
fn root(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, Value) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI("spiffe://spire.example".try_into().unwrap())];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let point = key.der_bytes();
    let entry = json!({
        "kty": "EC", "use": "x509-svid", "crv": "P-256",
        "x": url(&point[1..33]), "y": url(&point[33..]), "x5c": [padded(&der)],
    });
    (der, entry)
}

fn document(keys: &[&Value]) -> Value {
    json!({ "keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 300 })
}

fn parse(document: &Value) -> Result<Bundle, String> {
    Bundle::parse(document.to_string().as_bytes())
}

#[test]
fn roots_count_and_other_uses_do_not() {
    let ((first, one), (second, two)) = (root(|_| ()), root(|params| params.subject_alt_names.clear()));
    let token = json!({"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": one["x"], "y": one["y"]});
    let (mut later, mut strange) = (one.clone(), two.clone());
    later["use"] = "wit-svid".into();
    strange["kty"] = "PQ".into();
    let bundle = parse(&document(&[&token, &one, &later, &strange, &two, &one])).unwrap();
    assert_eq!(bundle.roots, [first.into(), second.into()]);
    assert_eq!(bundle.named, ["spire.example"]);
    assert_eq!(bundle.without_certificate, [0; 0]);
}

#[test]
fn of_several_certificates_the_first_counts_and_of_none_none() {
    let ((der, mut one), (_, mut bare)) = (root(|_| ()), root(|_| ()));
    let (_, other) = root(|_| ());
    one["x5c"].as_array_mut().unwrap().push(other["x5c"][0].clone());
    let mut empty = bare.clone();
    empty["x5c"] = json!([]);
    bare.as_object_mut().unwrap().remove("x5c");
    let bundle = parse(&document(&[&bare, &one, &empty])).unwrap();
    assert_eq!(bundle.roots, [der.into()]);
    assert_eq!(bundle.without_certificate, [1, 3]);
    // Both at once: nothing is left.
    assert!(parse(&document(&[&bare, &empty])).unwrap_err().contains("holds no root"));
}

/// Sets, or takes away, one member.
fn with(entry: &Value, name: &str, value: Option<Value>) -> Value {
    let mut entry = entry.clone();
    match value {
        Some(value) => entry[name] = value,
        None => drop(entry.as_object_mut().unwrap().remove(name)),
    }
    entry
}

#[test]
fn what_is_not_sound_spoils_the_document() {
    let (der, good) = root(|_| ());
    let (_, other) = root(|_| ());
    let text = good["x5c"][0].as_str().unwrap();
    let set = |name: &str, value: Value| with(&good, name, Some(value));
    let mut long = der.clone();
    long.push(0);
    for (entry, why) in [
        (json!(7), "key 2 is not an object"),
        (with(&good, "use", None), "has no \"use\""),
        (set("use", json!(["x509-svid"])), "\"use\" that is not a string"),
        (with(&good, "kty", None), "has no \"kty\""),
        (set("d", json!("AQAB")), "holds a private key"),
        (set("x5c", json!(text)), "\"x5c\" that is not a list"),
        (set("x5c", json!([7])), "not base64"),
        (set("x5c", json!([url(&der)])), "not base64"),
        (set("x5c", json!([format!("{text}\n")])), "not base64"),
        (set("x5c", json!([format!("{text}====")])), "not base64"),
        (set("x5c", json!([padded(&long)])), "cannot be read"),
        (set("x5c", json!([padded(&der[..der.len() - 1])])), "cannot be read"),
        (set("x5c", json!([""])), "cannot be read"),
        (set("x5c", other["x5c"].clone()), "is not for the key beside it"),
        (set("x", other["x"].clone()), "is not for the key beside it"),
        (with(&good, "y", None), "is not for the key beside it"),
        (set("kty", json!("RSA")), "is not for the key beside it"),
        (root(|params| params.is_ca = IsCa::NoCa).1, "no CA:TRUE"),
        (root(|params| params.is_ca = IsCa::ExplicitNoCa).1, "no CA:TRUE"),
        (root(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]).1, "no keyCertSign"),
    ] {
        // Beside a good one, too: half a set of roots would lock callers out without a word.
        let said = parse(&document(&[&good, &entry])).unwrap_err();
        assert!(said.contains(why), "{entry}: {said}");
    }
    for (text, why) in [
        ("", "strict JSON"),
        ("[]", "strict JSON"),
        ("{}", "no list \"keys\""),
        ("{\"keys\":{}}", "no list \"keys\""),
        ("{\"keys\":[]}", "holds no root"),
        ("{\"keys\":[],\"keys\":[]}", "strict JSON"),
        ("{\"keys\":[]} {}", "strict JSON"),
        ("{\"keys\":[],\"spiffe_sequence\":-1}", "spiffe_sequence"),
        ("{\"keys\":[],\"spiffe_refresh_hint\":\"5m\"}", "spiffe_refresh_hint"),
    ] {
        let said = Bundle::parse(text.as_bytes()).unwrap_err();
        assert!(said.contains(why), "{text}: {said}");
    }
    let many = document(&vec![&json!({"use": "jwt-svid"}); MAX_KEYS + 1]);
    assert!(parse(&many).unwrap_err().contains("more than 256 keys"));
    let padding = format!("{}{}", document(&[&good]), " ".repeat(MAX_DOCUMENT));
    assert!(Bundle::parse(padding.as_bytes()).unwrap_err().contains("bytes"));
}

/// RSA and P-384 keys as openssl makes them, and their values as it prints them.
#[test]
fn keys_of_other_types_are_compared_too() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    for (kind, tail) in [("rsa:2048", 0), ("ec -pkeyopt ec_paramgen_curve:P-384", 97), ("ed25519", 32)] {
        openssl(&format!(
            "req -x509 -newkey {kind} -nodes -keyout k -out c.pem -subj /O=SPIFFE -addext keyUsage=critical,keyCertSign"
        ));
        let spki = openssl("pkey -in k -pubout -outform DER");
        let point = &spki[spki.len() - tail..];
        let der = CertificateDer::from_pem_file(dir.path().join("c.pem")).unwrap();
        let mut entry = json!({"use": "x509-svid", "x5c": [padded(&der)]});
        match tail {
            0 => {
                let text = String::from_utf8(openssl("rsa -in k -noout -modulus")).unwrap();
                let hex = text.trim().strip_prefix("Modulus=").unwrap();
                let n: Vec<u8> =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
                (entry["kty"], entry["n"], entry["e"]) = ("RSA".into(), url(&n).into(), "AQAB".into());
            }
            97 => {
                (entry["kty"], entry["x"], entry["y"]) =
                    ("EC".into(), url(&point[1..49]).into(), url(&point[49..]).into());
            }
            _ => (entry["kty"], entry["x"]) = ("OKP".into(), url(point).into()),
        }
        assert_eq!(parse(&document(&[&entry])).unwrap().roots, [der], "{kind}");
        let value = if tail == 0 { "e" } else { "x" };
        assert!(parse(&document(&[&with(&entry, value, Some("AQAC".into()))])).is_err(), "{kind}");
    }
}

fn config(dir: &Path, bundle: &str, map: &str) -> Result<Config, Vec<Problem>> {
    fs::write(dir.join("spire.json"), bundle).unwrap();
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nnames = {{ api = [\"llm.example\"] }}\nclient_auth = \"required\"\n[ca]\ntrust_domain = \"corp.example\"\n\
         [[trust]]\nname = \"spire\"\nroots = \"spire.json\"\n{map}\n"
    );
    let file = dir.join("doorward.toml");
    fs::write(&file, text).unwrap();
    load(&file, &|_| None)
}

#[test]
fn a_bundle_is_read_where_roots_are() {
    let dir = tempfile::tempdir().unwrap();
    let (der, good) = root(|_| ());
    let spiffe = |domain: &str| format!("map = \"spiffe\"\ntrust_domains = [\"{domain}\"]");
    let text = document(&[&good]).to_string();
    let about = |said: &[Problem]| said.iter().map(|said| said.message.clone()).collect::<Vec<_>>().join("\n");

    let read = config(dir.path(), &format!("\n  {text}\n"), &spiffe("spire.example")).unwrap();
    assert_eq!(read.trust[0].roots, [der.into()]);
    assert!(!about(&read.warnings).contains("spire.json"), "{:?}", read.warnings);

    let foreign = config(dir.path(), &text, &spiffe("other.example")).unwrap();
    assert!(
        about(&foreign.warnings).contains("a root of the trust domain \"spire.example\""),
        "{:?}",
        foreign.warnings
    );
    let bare = with(&good, "x5c", None);
    let less = config(dir.path(), &document(&[&good, &bare]).to_string(), &spiffe("spire.example")).unwrap();
    assert!(about(&less.warnings).contains("key 2 of spire.json"), "{:?}", less.warnings);

    let field = "map = { from = \"san_dns\", to = \"spiffe://a.example/client/{}\" }";
    for (text, map, why) in [
        (text.as_str(), field, "goes with map = \"spiffe\""),
        ("{\"keys\":[]}", &spiffe("spire.example"), "spire.json: it holds no root"),
        ("{", &spiffe("spire.example"), "spire.json: it is not strict JSON"),
        ("", &spiffe("spire.example"), "holds no certificate"),
    ] {
        let refused = config(dir.path(), text, map).unwrap_err();
        assert!(about(&refused).contains(why), "{refused:?}");
    }
}

proptest! {
    /// Whatever stands in an entry, only the certificate of the good one counts.
    #[test]
    fn nothing_is_slipped_in(
        name in "use|kty|x5c|x|y|crv|kid|d|x5t|[a-z]{1,4}",
        value in prop_oneof![
            Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from),
            "[ -~]{0,20}".prop_map(Value::from), prop::collection::vec("[A-Za-z0-9+/=]{0,12}", 0..3).prop_map(Value::from),
        ],
    ) {
        let (der, good) = root(|_| ());
        let (_, other) = root(|_| ());
        let changed = with(&other, &name, Some(value));
        let theirs = base64(other["x5c"][0].as_str().unwrap()).unwrap();
        if let Ok(bundle) = parse(&document(&[&good, &changed])) {
            let known: [CertificateDer<'_>; 2] = [der.into(), theirs.into()];
            prop_assert!(bundle.roots.iter().all(|root| known.contains(root)));
            prop_assert_eq!(&bundle.roots[0], &known[0]);
        }
    }

    #[test]
    fn noise_is_no_bundle(noise in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..2000) {
        prop_assert!(Bundle::parse(&noise).is_err());
        let text = document(&[&root(|_| ()).1]).to_string();
        if cut < text.len() {
            prop_assert!(Bundle::parse(&text.as_bytes()[..cut]).is_err());
        }
    }
}
