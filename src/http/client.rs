//! HTTP as a client: from node to node, and from the client commands.
//!
//! Every status is looked at here; a body that ends too early is an error of its reader
//! ([`io::ErrorKind::UnexpectedEof`]), never a shorter body. Nothing is retried here: only the caller knows what may be.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder, SendBody};

/// The most of an answer's sentence that is kept for an error.
const MAX_SENTENCE: u64 = 4 << 10;

/// What ureq keeps per connection, each way, where there may be many. Its own default is 128 KiB, which adds up.
const BUFFER: usize = 16 << 10;

/// How long to wait for a peer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until the response begins, after the request was sent.
    pub response: Duration,
    /// Until the next bytes of a body; `None` for streams that may be silent.
    pub read: Option<Duration>,
    /// Whether `http_proxy` and its like are heeded: by client commands, which people run; never from node to node.
    pub proxy: bool,
    /// How much is read off the connection at once, in bytes, and kept for it.
    pub buffer: usize,
}

impl Patience {
    /// For calls from node to node.
    pub const NODE: Patience = Patience {
        connect: Duration::from_secs(2),
        response: Duration::from_secs(30),
        read: Some(Duration::from_secs(30)),
        proxy: false,
        buffer: BUFFER,
    };

    /// For live streams from node to node, in which nothing may happen for long.
    pub const STREAM: Patience = Patience { read: None, ..Patience::NODE };
}

/// An agent with our settings. Use one per query or class of work: `Agent::shutdown` ends all calls of it at once.
pub fn agent(patience: Patience) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("oklog/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.response))
        .timeout_per_read(patience.read)
        .timeout_per_write(patience.read)
        .input_buffer_size(patience.buffer)
        .output_buffer_size(BUFFER);
    // The gate serves one request per connection: there is nothing to pool.
    let config = config.max_idle_connections(0);
    let config = if patience.proxy { config } else { config.proxy(None) };
    Agent::new_with_config(config.build())
}

/// Why a call brought nothing.
#[derive(Debug)]
pub enum ClientError {
    /// No answer came. Whether the request was acted on is not known.
    NoAnswer {
        /// What was asked.
        url: String,
        /// Why.
        source: ureq::Error,
    },
    /// The answer is not one of success.
    Refused {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
        /// The answer's first bytes, which hold one sentence if the peer is one of ours.
        sentence: String,
    },
    /// The answer broke off or could not be read.
    Broken {
        /// What was asked.
        url: String,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Refused { status, .. } => Some(*status),
            ClientError::NoAnswer { .. } | ClientError::Broken { .. } => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoAnswer { url, source } => write!(f, "no answer from {url}: {source}"),
            ClientError::Refused { url, status, sentence } => write!(f, "{url} answered {status}: {sentence}"),
            ClientError::Broken { url, source } => write!(f, "the answer of {url} broke off: {source}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::NoAnswer { source, .. } => Some(source),
            ClientError::Broken { source, .. } => Some(source),
            ClientError::Refused { .. } => None,
        }
    }
}

/// An answer of success: a status from 200 to 299.
#[derive(Debug)]
pub struct Answer {
    url: String,
    response: Response<Body>,
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The first header of this name, if it is ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, as it comes, without limit.
    pub fn into_reader(self) -> impl Read + Send + 'static {
        self.response.into_body().into_reader()
    }

    /// The whole body, if it is at most `limit` bytes long.
    pub fn bytes(self, limit: u64) -> Result<Vec<u8>, ClientError> {
        let url = self.url.clone();
        let broken = |source| ClientError::Broken { url, source };
        let mut body = Vec::new();
        match self.into_reader().take(limit.saturating_add(1)).read_to_end(&mut body) {
            Err(source) => Err(broken(source)),
            Ok(_) if body.len() as u64 > limit => {
                Err(broken(io::Error::other(format!("it is longer than {limit} bytes"))))
            }
            Ok(_) => Ok(body),
        }
    }

    /// The whole body as text, if it is at most `limit` bytes long. What is not UTF-8 is replaced.
    pub fn text(self, limit: u64) -> Result<String, ClientError> {
        self.bytes(limit).map(|body| String::from_utf8_lossy(&body).into_owned())
    }
}

/// Signs calls from node to node.
pub trait Sign: Send + Sync {
    /// The value of the header [`SIGNATURE`](super::SIGNATURE) for a call to the node `to`, which is its id for this start.
    fn sign(&self, method: &str, target: &str, to: u128) -> String;
}

/// The node that is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callee {
    /// Where its API answers, `address:port`.
    pub api: String,
    /// Its id; 0 where it is not known, which only a node without a key accepts.
    pub node: u128,
}

/// Calls other nodes, signed where the cluster has a key.
#[derive(Clone, Default)]
pub struct Caller {
    sign: Option<Arc<dyn Sign>>,
}

impl Caller {
    /// A caller that signs, or, with `None`, does not.
    pub fn new(sign: Option<Arc<dyn Sign>>) -> Caller {
        Caller { sign }
    }

    /// Asks. `target` is path and query, encoded already.
    pub fn get(&self, agent: &Agent, to: &Callee, target: &str) -> Result<Answer, ClientError> {
        let url = url_of(to, target);
        judge(&url, self.signed(agent.get(&url), "GET", target, to).call())
    }

    /// Asks for the headers alone.
    pub fn head(&self, agent: &Agent, to: &Callee, target: &str) -> Result<Answer, ClientError> {
        let url = url_of(to, target);
        judge(&url, self.signed(agent.head(&url), "HEAD", target, to).call())
    }

    /// Sends nothing but the request.
    pub fn post_empty(&self, agent: &Agent, to: &Callee, target: &str) -> Result<Answer, ClientError> {
        let url = url_of(to, target);
        judge(&url, self.signed(agent.post(&url), "POST", target, to).send_empty())
    }

    /// Sends a body of unknown length, in chunks; as [`post_reader`].
    pub fn post_reader(
        &self,
        agent: &Agent,
        to: &Callee,
        target: &str,
        mut body: impl Read,
    ) -> Result<Answer, ClientError> {
        let url = url_of(to, target);
        judge(&url, self.signed(agent.post(&url), "POST", target, to).send(SendBody::from_reader(&mut body)))
    }

    fn signed<B>(&self, request: RequestBuilder<B>, method: &str, target: &str, to: &Callee) -> RequestBuilder<B> {
        match &self.sign {
            Some(sign) => request.header(super::SIGNATURE, sign.sign(method, target, to.node)),
            None => request,
        }
    }
}

fn url_of(to: &Callee, target: &str) -> String {
    format!("http://{}{target}", to.api)
}

/// Asks.
pub fn get(agent: &Agent, url: &str) -> Result<Answer, ClientError> {
    judge(url, agent.get(url).call())
}

/// Asks for the headers alone.
pub fn head(agent: &Agent, url: &str) -> Result<Answer, ClientError> {
    judge(url, agent.head(url).call())
}

/// Sends nothing but the request.
pub fn post_empty(agent: &Agent, url: &str) -> Result<Answer, ClientError> {
    judge(url, agent.post(url).send_empty())
}

/// Sends a body of unknown length, in chunks. If the reader fails, so does the call, and the peer sees a broken body.
pub fn post_reader(agent: &Agent, url: &str, mut body: impl Read) -> Result<Answer, ClientError> {
    judge(url, agent.post(url).send(SendBody::from_reader(&mut body)))
}

/// Sends a body of known length. A reader that ends before makes the call fail; what it holds beyond is not read.
pub fn post_sized(agent: &Agent, url: &str, body: impl Read, length: u64) -> Result<Answer, ClientError> {
    let request = agent.post(url).header("Content-Length", length.to_string());
    judge(url, request.send(SendBody::from_reader(&mut Exactly { body, left: length })))
}

/// A reader that fails if it ends too early: ureq 3.5 asks one that has ended for the rest again and again.
struct Exactly<R> {
    body: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.body.read(buffer.get_mut(..wanted).unwrap_or_default())?;
        if n == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body is shorter than was announced"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn judge(url: &str, outcome: Result<Response<Body>, ureq::Error>) -> Result<Answer, ClientError> {
    let response = outcome.map_err(|source| ClientError::NoAnswer { url: url.to_string(), source })?;
    let answer = Answer { url: url.to_string(), response };
    if answer.response.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let mut sentence = Vec::new();
    // Whatever of the sentence has come: the status is what counts.
    let _ = answer.into_reader().take(MAX_SENTENCE).read_to_end(&mut sentence);
    let sentence = String::from_utf8_lossy(&sentence).trim().to_string();
    Err(ClientError::Refused { url: url.to_string(), status, sentence })
}
