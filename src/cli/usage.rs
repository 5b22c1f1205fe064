//! Lines to paste: how clients use a certificate.

use crate::ca::leaf_files::LeafFiles;
use crate::domain::identity::IdentityName;

/// Lines to paste, for curl, Python and Node. `key` is the key's text, a `$VARIABLE`, or the
/// placeholder that says that the certificate is the credential.
#[must_use]
pub fn lines(url: &str, files: &LeafFiles, key: &str) -> String {
    let [certificate, private, roots] =
        [&files.certificate, &files.key, &files.roots].map(|path| path.display().to_string());
    let [certificate_word, private_word, roots_word] = [&certificate, &private, &roots].map(|path| word(path));
    format!(
        r#"# curl
curl --cacert {roots_word} --cert {certificate_word} --key {private_word} -H "Authorization: Bearer {key}" {url}/v1/models

# Python: pip install openai
import ssl, openai
tls = ssl.create_default_context(cafile={roots:?})
tls.load_cert_chain({certificate:?}, {private:?})
client = openai.OpenAI(base_url="{url}/v1", api_key="{key}", http_client=openai.DefaultHttpxClient(verify=tls))

// Node: npm install openai undici
import fs from "node:fs"; import OpenAI from "openai"; import {{ Agent, fetch as through }} from "undici";
const dispatcher = new Agent({{ connect: {{ ca: fs.readFileSync({roots:?}), cert: fs.readFileSync({certificate:?}), key: fs.readFileSync({private:?}) }} }});
const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: "{key}", fetch: (u, o) => through(u, {{ ...o, dispatcher }}) }});"#
    )
}

/// The line that makes a PKCS#12 file of the files in PEM: with openssl, whose PBES2 browsers, curl
/// and Java read.
#[must_use]
pub fn pkcs12(files: &LeafFiles, name: &IdentityName) -> String {
    let file = files.certificate.with_extension("p12");
    let [out, key, certificate, roots] =
        [&file, &files.key, &files.certificate, &files.roots].map(|path| word(&path.display().to_string()));
    format!("openssl pkcs12 -export -out {out} -inkey {key} -in {certificate} -certfile {roots} -name {name}")
}

/// A path as one word for a shell.
fn word(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}
