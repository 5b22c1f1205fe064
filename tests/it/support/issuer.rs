//! Issuers: tokens made by an independent library, and a real server with their public keys.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
};
use doorward::clock::Clock;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What tokens are for.
pub(crate) const AUDIENCE: &str = "doorward";

/// A private key with a name.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) kid: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
}

impl Signer {
    pub(crate) fn new(kid: &str, algorithm: Algorithm) -> Self {
        let elliptic = |curve| {
            let pair = EcdsaKeyPair::generate(curve).unwrap();
            EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref())
        };
        let key = if algorithm == Algorithm::ES256 {
            elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING)
        } else if algorithm == Algorithm::ES384 {
            elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING)
        } else if algorithm == Algorithm::EdDSA {
            EncodingKey::from_ed_der(Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref())
        } else {
            rsa_key(KeySize::Rsa2048)
        };
        Self { kid: Some(kid.to_owned()), algorithm, key }
    }

    /// The same key under another name.
    pub(crate) fn named(&self, kid: &str) -> Self {
        Self { kid: Some(kid.to_owned()), ..self.clone() }
    }

    /// The same key for another algorithm of its family.
    pub(crate) fn with(&self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self.clone() }
    }

    /// The public key, as the library writes it.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["use"] = json!("sig");
        // An RSA key is for all algorithms of its family.
        jwk.as_object_mut().unwrap().remove("alg");
        if let Some(kid) = &self.kid {
            jwk["kid"] = json!(kid);
        }
        jwk
    }

    pub(crate) fn header(&self) -> Header {
        Header { kid: self.kid.clone(), ..Header::new(self.algorithm) }
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.key).unwrap()
    }

    /// Any two texts, rightly signed.
    pub(crate) fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(payload));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{signed}.{signature}")
    }
}

/// An RSA key of this size. The library wants the key itself (PKCS #1), which stands in a PKCS #8
/// document behind 26 bytes that are always the same.
pub(crate) fn rsa_key(size: KeySize) -> EncodingKey {
    let pkcs8 = RsaKeyPair::generate(size).unwrap().as_der().unwrap();
    EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..])
}

/// A JWKS document of these keys.
pub(crate) fn jwks(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Claims that hold for five minutes from now.
pub(crate) fn claims(issuer: &str, subject: &str) -> Value {
    let now = Clock::System.now().as_seconds();
    json!({ "iss": issuer, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 300 })
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let chunk = |chunk: &[u8]| {
        let number = (0..3).fold(0u32, |number, at| number << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        (0..=chunk.len()).map(|at| char::from(ALPHABET[(number >> (18 - 6 * at) & 63) as usize])).collect::<String>()
    };
    bytes.as_ref().chunks(3).map(chunk).collect()
}

/// What a server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers with this body.
    Body(String),
    /// Answers with these bytes.
    Raw(Vec<u8>),
    /// Takes the request and says nothing.
    Silence,
}

/// A server with documents. Its discovery document and its keys are where they usually are.
pub(crate) struct IssuerServer {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    hits: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) const KEYS: &str = "/keys";
pub(crate) const DISCOVERY: &str = "/.well-known/openid-configuration";

impl IssuerServer {
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        Self::start_at("127.0.0.1:0", signers, None).await
    }

    pub(crate) async fn start_at(address: &str, signers: &[&Signer], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (replies, hits) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(TlsAcceptor::from);
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&replies), Arc::clone(&hits)));
        let server = Self { address, scheme, replies, hits, task };
        let (issuer, keys) = (server.url(), format!("{}{KEYS}", server.url()));
        server.set(DISCOVERY, Reply::Body(json!({ "issuer": issuer, "jwks_uri": keys }).to_string()));
        server.has(signers);
        server
    }

    /// The issuer's own URL.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// From now on these are its keys.
    pub(crate) fn has(&self, signers: &[&Signer]) {
        self.set(KEYS, Reply::Body(jwks(signers)));
    }

    pub(crate) fn set(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// How often a path was asked for.
    pub(crate) fn hits(&self, path: &str) -> usize {
        self.hits.lock().unwrap().iter().filter(|hit| *hit == path).count()
    }

    /// Nobody listens any more.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    hits: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, replies, hits) = (tls.clone(), Arc::clone(&replies), Arc::clone(&hits));
        tokio::spawn(async move {
            match tls {
                None => answer(socket, &replies, &hits).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        answer(stream, &replies, &hits).await;
                    }
                }
            }
        });
    }
}

async fn answer(
    mut wire: impl AsyncRead + AsyncWrite + Unpin,
    replies: &Mutex<HashMap<String, Reply>>,
    hits: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match wire.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    hits.lock().unwrap().push(path.clone());
    let reply = replies.lock().unwrap().get(&path).cloned();
    let bytes = match reply {
        Some(Reply::Body(body)) => {
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .into_bytes()
        }
        Some(Reply::Raw(bytes)) => bytes,
        Some(Reply::Silence) => return std::future::pending().await,
        None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
    };
    // The other side may have heard enough.
    if wire.write_all(&bytes).await.is_ok() {
        let _ = wire.shutdown().await.is_ok();
    }
}
