//! A webhook's receiver: a real HTTPS server that answers as it is told and keeps what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use doorward::tls::server::provider;
use doorward::webhook::sign::{SigningSecret, sign};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{LONG, Setup, until};

/// What questions are signed with.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How a question is answered.
#[derive(Clone)]
pub(crate) enum Manner {
    /// As the contract says, with these members besides `version` and `request_id`.
    Say(Value),
    /// With this status, type and body; `ID` in the body becomes the question's own.
    Raw(u16, &'static str, String),
    /// Never.
    Hang,
}

/// The receiver.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    /// Its authority, in PEM.
    root: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    manner: Mutex<Manner>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    /// While false, nothing is answered.
    open: watch::Sender<bool>,
}

/// A question as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Receiver {
    /// One that allows everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = KeyPair::generate().unwrap();
        let pem = root.self_signed(&root_key).unwrap().pem();
        let authority = Issuer::new(root, root_key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let state = Arc::new(State {
            manner: Mutex::new(Manner::Say(json!({"decision": "allow"}))),
            asked: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: watch::Sender::new(true),
        });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&state)));
        Self { address, root: pem, state, task }
    }

    /// From now on questions are answered like this.
    pub(crate) fn answers(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
    }

    pub(crate) fn says(&self, members: Value) {
        self.answers(Manner::Say(members));
    }

    /// While it is not open, questions come and are not answered.
    pub(crate) fn open(&self, open: bool) {
        self.state.open.send_replace(open);
    }

    /// All questions so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.state.asked.lock().unwrap().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Waits until so many questions have come in all.
    pub(crate) async fn was_asked(&self, count: usize) {
        until(LONG, "the receiver is asked", || (self.count() >= count).then_some(())).await;
    }

    /// Nobody listens any more.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// A `[webhook.NAME]` with these settings. Unless they say otherwise it is waited for: the machine
    /// may have much else to do.
    pub(crate) fn section(&self, name: &str, settings: &str) -> String {
        let patience = if settings.contains("timeout") { "" } else { "timeout = \"10s\"\nconnect_timeout = \"10s\"" };
        let (address, port) = (self.address, self.address.port());
        format!(
            "[webhook.{name}]\nurl = \"https://{address}/decide?tenant=1\"\nca_file = \"receiver-{port}.pem\"\n\
             secrets = [\"{SECRET}\"]\n{patience}\n{settings}\n"
        )
    }

    /// The file that a section refers to.
    pub(crate) fn file(&self) -> (String, String) {
        (format!("receiver-{}.pem", self.address.port()), self.root.clone())
    }

    /// A gateway whose callers' grant names this receiver `iam`, with these settings.
    pub(crate) fn guard(&self, setup: Setup, settings: &str) -> Setup {
        let mut setup = setup;
        setup.grants = setup.grants.replacen("owner = \"acme\"\n", "owner = \"acme\"\nwebhook = \"iam\"\n", 1);
        assert!(setup.grants.contains("webhook"));
        self.beside(setup, "iam", settings)
    }

    /// A gateway that knows this receiver by a name.
    pub(crate) fn beside(&self, mut setup: Setup, name: &str, settings: &str) -> Setup {
        setup.more.push_str(&self.section(name, settings));
        setup.files.push(self.file());
        setup
    }
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }

    /// Checks the signature over what came.
    pub(crate) fn assert_signed(&self) {
        let secret = SigningSecret::parse(SECRET).unwrap();
        let seconds = self.header("webhook-timestamp").parse().unwrap();
        let expected = sign(&[secret], self.header("webhook-id"), seconds, self.text.as_bytes());
        assert_eq!(self.header("webhook-signature"), expected);
        assert_eq!(self.header("webhook-id"), format!("dec_{}", self.body["request_id"].as_str().unwrap()));
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(socket).await else { return };
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.is_ok();
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/decide?tenant=1"));
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let body: Value = serde_json::from_str(&text).unwrap();
    let id = body["request_id"].clone();
    let manner = state.manner.lock().unwrap().clone();
    state.asked.lock().unwrap().push(Asked { headers: head.headers, text, body });
    let _ = state.open.subscribe().wait_for(|open| *open).await.is_ok();
    let (status, kind, body) = match manner {
        Manner::Say(members) => {
            let mut answer = json!({"version": 1, "request_id": id});
            for (name, value) in members.as_object().unwrap() {
                answer[name] = value.clone();
            }
            (200, "application/json", answer.to_string())
        }
        Manner::Raw(status, kind, body) => (status, kind, body.replace("ID", id.as_str().unwrap())),
        Manner::Hang => std::future::pending().await,
    };
    Ok(Response::builder().status(status).header("content-type", kind).body(Full::new(body.into())).unwrap())
}
