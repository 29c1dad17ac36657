//! The gate under attack: whatever one client does, the next one is answered at once.

// A test ends by a panic; clippy's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use oklog::http::{Access, Cancel, HttpServer, Lane, Limits, Reply, Request, Route, client};
use oklog::ops::metrics::{API_PANICS, API_REFUSED, API_SECONDS, Metrics};
use oklog::unit::Bytes;
use oklog::world::crew::{Crew, Stop};
use oklog::world::entropy::Dice;
use oklog::world::socket;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What handlers tell the tests.
type Told = Result<(usize, bool), String>;

struct Node {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    crew: Crew,
    stop: Stop,
    bodies: Receiver<Told>,
    cancelled: Receiver<Duration>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.raise();
        let began = Instant::now();
        let farewell = self.crew.join_all(Duration::from_secs(10));
        if !std::thread::panicking() {
            assert!(farewell.late.is_empty() && farewell.panicked.is_empty(), "{farewell:?}");
            assert!(began.elapsed() < Duration::from_secs(2), "stopping took {:?}", began.elapsed());
        }
    }
}

fn route(
    path: &'static str,
    methods: &'static [&'static str],
    lane: Lane,
    limit: u64,
    handler: impl Fn(&mut Request, Reply) -> io::Result<()> + Send + Sync + 'static,
) -> Route {
    Route { path, methods, lane, access: Access::Open, body_limit: Bytes(limit), handler: Arc::new(handler) }
}

fn wait_for_cancel(cancel: &Cancel, told: &Mutex<Sender<Duration>>) {
    let began = Instant::now();
    while !cancel.wait(Duration::from_secs(60)) {}
    let _ = told.lock().unwrap().send(began.elapsed());
}

fn routes(bodies: Sender<Told>, cancelled: Sender<Duration>) -> Vec<Route> {
    let (bodies, cancelled) = (Mutex::new(bodies), Arc::new(Mutex::new(cancelled)));
    let streamed = cancelled.clone();
    vec![
        route("/ping", &["GET", "HEAD"], Lane::Short, 0, |request, reply| {
            let q = request.param_bytes("q").unwrap_or(b"pong").to_vec();
            reply.send(200, &[("X-Q", String::from_utf8_lossy(&q).into_owned())], &q)
        }),
        route("/take", &["POST"], Lane::Upload, 8 << 20, move |request, reply| {
            let mut body = Vec::new();
            let told = match request.body().read_to_end(&mut body) {
                Ok(n) => Ok((n, request.body_is_whole())),
                Err(e) => Err(e.to_string()),
            };
            let _ = bodies.lock().unwrap().send(told.clone());
            match told {
                Ok((n, true)) => reply.send(200, &[], format!("{n}").as_bytes()),
                _ => reply.send(400, &[], b"torn\n"),
            }
        }),
        route("/ignore", &["POST"], Lane::Upload, 8 << 20, |_, reply| reply.send(507, &[], b"no room\n")),
        route("/large", &["GET"], Lane::Query, 0, large),
        route("/large-part", &["GET"], Lane::Part, 0, large),
        route("/pieces", &["GET"], Lane::Query, 0, pieces),
        route("/small", &["GET", "HEAD"], Lane::Query, 0, |_, reply| {
            let mut body = reply.stream(200, &[])?;
            body.write_all(b"hello ")?;
            body.flush()?;
            body.write_all(b"world\n")?;
            body.finish()
        }),
        route("/breaks", &["GET"], Lane::Query, 0, |_, reply| {
            let mut body = reply.stream(200, &[])?;
            body.write_all(b"the first half")?;
            body.flush()?;
            Err(io::Error::other("as the test wants"))
        }),
        route("/panics", &["GET"], Lane::Short, 0, |_, _| panic!("as the test wants")),
        route("/panics-late", &["GET"], Lane::Short, 0, |_, reply| {
            let mut body = reply.stream(200, &[])?;
            body.write_all(b"the first half")?;
            body.flush()?;
            panic!("as the test wants")
        }),
        route("/silent", &["GET"], Lane::Query, 0, move |request, _| {
            wait_for_cancel(request.cancel(), &cancelled);
            Ok(())
        }),
        route("/stream", &["GET"], Lane::Stream, 0, move |request, reply| {
            let mut body = reply.stream(200, &[])?;
            body.write_all(b"first\n")?;
            body.flush()?;
            wait_for_cancel(request.cancel(), &streamed);
            Ok(())
        }),
    ]
}

fn large(_: &mut Request, reply: Reply) -> io::Result<()> {
    let mut body = reply.stream(200, &[])?;
    let piece = vec![b'x'; 64 << 10];
    for _ in 0..1024 {
        body.write_all(&piece)?;
    }
    body.finish()
}

/// Pieces of any size, some of them flushed.
fn pieces(request: &mut Request, reply: Reply) -> io::Result<()> {
    let mut dice = Dice::new(request.param("seed").and_then(|seed| seed.parse().ok()).unwrap_or(0));
    let mut body = reply.stream(200, &[])?;
    for _ in 0..dice.below(12) {
        let size = 1 << dice.below(20);
        let letter = b'a' + dice.below(26) as u8;
        body.write_all(&vec![letter; dice.below(size) as usize])?;
        if dice.below(3) == 0 {
            body.flush()?;
        }
    }
    body.finish()
}

/// Quick versions of all limits.
fn quick() -> Limits {
    Limits {
        head_time: Duration::from_millis(500),
        read: Duration::from_millis(500),
        body: Duration::from_secs(5),
        write: Duration::from_millis(500),
        linger: Duration::from_millis(300),
        taken: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn node_with(limits: Limits) -> Node {
    let (metrics, crew, stop) = (Arc::new(Metrics::default()), Crew::default(), Stop::default());
    let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let (body, bodies) = channel();
    let (cancel, cancelled) = channel();
    let routes = routes(body, cancel);
    let server =
        HttpServer::start(listener, routes, limits, None, metrics.clone(), crew.clone(), stop.clone()).unwrap();
    Node { address: server.local_addr(), metrics, crew, stop, bodies, cancelled }
}

fn node() -> Node {
    node_with(quick())
}

impl Node {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn send(&self, text: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    /// Sends and gives all that comes back; an error if the connection was reset.
    fn ask(&self, text: &str) -> io::Result<String> {
        let mut answer = Vec::new();
        self.send(text).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn status(&self, text: &str) -> u16 {
        status_of(&self.ask(text).unwrap())
    }

    /// The check after every attack.
    fn is_well(&self) {
        let began = Instant::now();
        let answer = self.ask("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\npong"), "{answer}");
        // 100 ms are the promise; the machine that tests may be busy.
        assert!(began.elapsed() < Duration::from_secs(1), "a second client waited for {:?}", began.elapsed());
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.counter(API_REFUSED, &[reason]).get()
    }

    fn told(&self) -> Told {
        self.bodies.recv_timeout(Duration::from_secs(20)).expect("a body")
    }
}

fn status_of(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[test]
fn a_huge_length_is_refused_before_its_body_is_read() {
    let node = node();
    let answer = node.ask("POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nabc").unwrap();
    assert_eq!(status_of(&answer), 413, "{answer}");
    assert_eq!(node.status("GET /ping HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"), 413);
    assert_eq!(node.refused("length"), 2);
    node.is_well();
}

#[test]
fn a_client_that_dies_in_mid_body_tears_the_body_and_nothing_else() {
    let node = node();
    for head in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let body = if head.starts_with('C') { "abc" } else { "ffff\r\nabc" };
        let stream = node.send(&format!("POST /take HTTP/1.1\r\n{head}\r\n\r\n{body}"));
        drop(stream);
        let told = node.told();
        assert!(told.as_ref().is_err_and(|e| e.contains("ended before its end")), "{head}: {told:?}");
        node.is_well();
    }
    // One that still listens is told.
    let mut stream = node.send("POST /take HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status_of(&answer), 400, "{answer}");
}

#[test]
fn a_chunked_body_over_its_limit_is_cut() {
    let node = node();
    let mut stream = node.send("POST /take HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let piece = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    // The write fails as soon as the gate has closed.
    for _ in 0..200 {
        if stream.write_all(&piece).is_err() {
            break;
        }
    }
    assert!(node.told().is_err());
    node.is_well();
}

#[test]
fn requests_pipelined_behind_a_stream_are_never_taken_up() {
    let node = node();
    let streams: Vec<TcpStream> = (0..8)
        .map(|_| {
            let ping = "GET /ping HTTP/1.1\r\n\r\n".repeat(1_000);
            let mut stream = node.send(&format!("GET /stream HTTP/1.1\r\n\r\n{ping}"));
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            stream
        })
        .collect();
    node.is_well();
    drop(streams);
    for _ in 0..8 {
        node.cancelled.recv_timeout(Duration::from_secs(20)).expect("a stream that ended");
    }
}

#[test]
fn heads_beyond_a_limit_are_refused() {
    let node = node();
    assert_eq!(node.status(&"x".repeat(10_000)), 414);
    assert_eq!(node.status(&format!("GET /ping HTTP/1.1\r\nA: {}", "x".repeat(40_000))), 431);
    assert_eq!(node.status(&format!("GET /ping HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5_000))), 431);
    let mut endless = node.connect();
    let mut sent = 0;
    while sent < 100 << 20 && endless.write_all(&[b'x'; 64 << 10]).is_ok() {
        sent += 64 << 10;
    }
    assert!(sent < 100 << 20, "an endless line was read for 100 MiB");
    node.is_well();
}

#[test]
fn a_slow_head_has_its_time() {
    let node = node();
    let began = Instant::now();
    assert_eq!(node.status("GET /ping HTTP/1.1\r\n"), 408);
    assert!(began.elapsed() >= Duration::from_millis(400));
    // A byte now and then does not help.
    let mut stream = node.connect();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut answer = Vec::new();
    for _ in 0..200 {
        let _ = stream.write_all(b"x");
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    assert_eq!(status_of(&String::from_utf8_lossy(&answer)), 408);
    assert_eq!(node.refused("timeout"), 2);
    node.is_well();
}

#[test]
fn a_slow_body_has_its_time() {
    let node = node();
    assert_eq!(node.status("POST /take HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"), 408);
    assert!(node.told().is_err());
    node.is_well();
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let node = node();
    let clients: Vec<TcpStream> = (0..20).map(|_| node.send("GET /large HTTP/1.1\r\n\r\n")).collect();
    node.is_well();
    for mut client in clients {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !socket::wait_hung_up(&client, Duration::from_millis(100)).unwrap() {
            assert!(Instant::now() < deadline, "a client that does not read was never cut");
        }
        let mut body = Vec::new();
        let whole = client.read_to_end(&mut body).is_ok() && body.ends_with(b"\r\n0\r\n\r\n");
        assert!(!whole && body.len() < 64 << 20);
    }
    node.is_well();
}

#[test]
fn another_node_may_pause_while_it_reads_what_others_have() {
    let node = node();
    let mut pausing = node.send("GET /large-part HTTP/1.1\r\n\r\n");
    // Three times what a client would have.
    assert!(!socket::wait_hung_up(&pausing, Duration::from_millis(1_500)).unwrap());
    let mut body = Vec::new();
    pausing.read_to_end(&mut body).unwrap();
    assert!(body.ends_with(b"\r\n0\r\n\r\n") && body.len() > 64 << 20);
    node.is_well();
}

#[test]
fn a_client_that_says_that_it_pauses_is_borne_with_until_another_waits_for_its_worker() {
    let node = node();
    let mut pausing = node.send("GET /large HTTP/1.1\r\nX-Oklog-Pauses: true\r\n\r\n");
    let for_ever = node.send("GET /large HTTP/1.1\r\nX-Oklog-Pauses: true\r\n\r\n");
    // Three times what another client would have.
    assert!(!socket::wait_hung_up(&pausing, Duration::from_millis(1_500)).unwrap());
    let mut body = Vec::new();
    pausing.read_to_end(&mut body).unwrap();
    assert!(body.ends_with(b"\r\n0\r\n\r\n") && body.len() > 64 << 20);
    // The workers are 16.
    let others: Vec<TcpStream> = (0..17).map(|_| node.send("GET /silent HTTP/1.1\r\n\r\n")).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket::wait_hung_up(&for_ever, Duration::from_millis(100)).unwrap() {
        assert!(Instant::now() < deadline, "it kept its worker from others");
    }
    drop(others);
    node.is_well();
}

#[test]
fn a_body_that_breaks_has_no_final_chunk() {
    let node = node();
    for path in ["/breaks", "/panics-late"] {
        let answer = node.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
        assert!(answer.contains("Transfer-Encoding: chunked\r\n"), "{answer}");
        assert!(answer.ends_with("\r\ne\r\nthe first half\r\n"), "{answer}");
        let url = format!("http://{}{path}", node.address);
        let answer = client::get(&client::agent(client::Patience::NODE), &url).unwrap();
        let error = answer.bytes(1 << 20).unwrap_err();
        assert!(matches!(error, client::ClientError::Broken { .. }), "{error}");
    }
    node.is_well();
}

#[test]
fn http_1_0_gets_a_body_without_chunks_and_a_reset_if_it_breaks() {
    let node = node();
    let answer = node.ask("GET /small HTTP/1.0\r\n\r\n").unwrap();
    assert!(!answer.contains("Transfer-Encoding") && answer.ends_with("\r\n\r\nhello world\n"), "{answer}");
    let answer = node.ask("HEAD /small HTTP/1.0\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    let broken = node.ask("GET /breaks HTTP/1.0\r\n\r\n");
    assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let large = node.ask("GET /large HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(large.split_once("\r\n\r\n").unwrap().1.len(), 64 << 20);
    node.is_well();
}

/// A response to HTTP/1.1 is written to the client's socket by its handler, one to HTTP/1.0 is carried by the gate.
#[test]
fn a_body_is_the_same_by_either_way() {
    let node = node();
    for seed in 0..40 {
        let carried = node.ask(&format!("GET /pieces?seed={seed} HTTP/1.0\r\n\r\n")).unwrap();
        let carried = carried.split_once("\r\n\r\n").unwrap().1.as_bytes();
        let url = format!("http://{}/pieces?seed={seed}", node.address);
        let written = client::get(&client::agent(client::Patience::NODE), &url).unwrap().bytes(64 << 20).unwrap();
        assert!(written == carried, "replay with seed {seed}: {} and {} bytes", written.len(), carried.len());
    }
    node.is_well();
}

#[test]
fn ten_panics_cost_ten_answers() {
    let node = node();
    for _ in 0..10 {
        assert_eq!(node.status("GET /panics HTTP/1.1\r\n\r\n"), 500);
    }
    node.is_well();
    assert_eq!(node.metrics.counter(API_PANICS, &[]).get(), 10);
    // A request is counted when its handler is through, which is after the client has its answer.
    let panics = node.metrics.histogram(API_SECONDS, &["GET", "/panics", "500"]);
    let pings = node.metrics.histogram(API_SECONDS, &["GET", "/ping", "200"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while (panics.count(), pings.count()) != (10, 1) {
        assert!(Instant::now() < deadline, "{} panics and {} pings were counted", panics.count(), pings.count());
        std::thread::yield_now();
    }
}

#[test]
fn a_hang_up_cancels_a_handler_that_writes_nothing() {
    let node = node();
    let stream = node.send("GET /silent HTTP/1.1\r\n\r\n");
    assert!(node.cancelled.recv_timeout(Duration::from_millis(300)).is_err());
    let began = Instant::now();
    drop(stream);
    node.cancelled.recv_timeout(Duration::from_secs(20)).expect("a cancelled handler");
    assert!(began.elapsed() < Duration::from_millis(500), "after {:?}", began.elapsed());
    node.is_well();
}

#[test]
fn a_stop_ends_streams_and_silent_handlers() {
    let node = node();
    let mut stream = BufReader::new(node.send("GET /stream HTTP/1.1\r\n\r\n"));
    let mut line = String::new();
    while line != "first\r\n" && line != "first\n" {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
    }
    let _silent = node.send("GET /silent HTTP/1.1\r\n\r\n");
    let _idle = node.connect();
    // The drop of the node stops it, and looks at the time.
    drop(node);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn too_many_connections_are_told_so() {
    let node = node_with(Limits { per_address: 4, head_time: Duration::from_secs(20), ..quick() });
    let idle: Vec<TcpStream> = (0..4).map(|_| node.connect()).collect();
    let mut answer = String::new();
    node.connect().read_to_string(&mut answer).unwrap();
    assert_eq!(status_of(&answer), 503, "{answer}");
    assert!(answer.contains("Retry-After: "), "{answer}");
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.ask("GET /ping HTTP/1.1\r\n\r\n").is_ok_and(|answer| status_of(&answer) == 200) {
        assert!(Instant::now() < deadline, "places were not given back");
    }
    node.is_well();
    assert!(node.refused("address") >= 1);
}

#[test]
fn a_full_lane_answers_and_leaves_the_others_alone() {
    let node = node_with(Limits { read: Duration::from_secs(30), body: Duration::from_secs(30), ..quick() });
    // 16 at once and 64 that wait: the rest is told to come again.
    let clients: Vec<TcpStream> = (0..100).map(|_| node.send("GET /silent HTTP/1.1\r\n\r\n")).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.refused("busy") < 20 {
        assert!(Instant::now() < deadline, "{} were refused", node.refused("busy"));
        node.is_well();
    }
    assert_eq!(node.refused("busy"), 20);
    drop(clients);
}

#[test]
fn routes_methods_versions_and_parameters_are_judged() {
    let node = node();
    let cases = [
        ("GET /nothing HTTP/1.1\r\n\r\n", 404),
        ("GET /ping/ HTTP/1.1\r\n\r\n", 404),
        ("POST /ping HTTP/1.1\r\n\r\n", 405),
        ("GET /ping HTTP/2.0\r\n\r\n", 505),
        ("GET /ping?q=%zz HTTP/1.1\r\n\r\n", 400),
        ("GET /ping?from=%ff HTTP/1.1\r\n\r\n", 400),
        ("GET /ping?q=%ff HTTP/1.1\r\n\r\n", 200),
        ("GET http://any.host/ping HTTP/1.1\r\n\r\n", 200),
        ("POST /take HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /take HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
        ("POST /take HTTP/1.1\r\nContent-Length: three\r\n\r\n", 400),
        ("POST /take HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("GET /ping HTTP/1.1\r\nX-Oklog-Gate-Number: 1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 200),
    ];
    for (request, status) in cases {
        assert_eq!(node.status(request), status, "{request:?}");
    }
    let answer = node.ask("POST /ping HTTP/1.1\r\n\r\n").unwrap();
    assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");
    assert!(!answer.contains("Access-Control"), "{answer}");
    let answer = node.ask("HEAD /ping HTTP/1.1\r\n\r\n").unwrap();
    assert!(answer.contains("\r\nContent-Length: 4\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = node.ask("GET /ping?q=a%0d%0aB:+c HTTP/1.1\r\n\r\n").unwrap();
    assert!(answer.contains("\r\nX-Q: a%0D%0AB: c\r\n"), "{answer}");
    node.is_well();
}

#[test]
fn bodies_arrive_whole_whatever_their_framing() {
    let node = node();
    let body = "x".repeat(3_000_000);
    let length = format!("POST /take HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(node.ask(&length).unwrap().ends_with("\r\n\r\n3000000"));
    assert_eq!(node.told(), Ok((3_000_000, true)));
    let chunked =
        format!("POST /take HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert!(node.ask(&chunked).unwrap().ends_with("\r\n\r\n3000000"));
    assert_eq!(node.told(), Ok((3_000_000, true)));
    assert!(node.ask("POST /take HTTP/1.1\r\n\r\n").unwrap().ends_with("\r\n\r\n0"));
    assert_eq!(node.told(), Ok((0, true)));
    // One whose sender waits to be told to go on.
    let mut stream =
        BufReader::new(node.send("POST /take HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 100 "), "{line}");
    stream.get_mut().write_all(b"abc").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200 ") && rest.ends_with("\r\n\r\n3"), "{rest}");
}

#[test]
fn the_client_reports_what_a_node_says() {
    let node = node();
    let agent = client::agent(client::Patience::NODE);
    let url = |path: &str| format!("http://{}{path}", node.address);
    assert_eq!(client::get(&agent, &url("/small")).unwrap().text(100).unwrap(), "hello world\n");
    let error = client::get(&agent, &url("/nothing")).unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert!(error.to_string().ends_with("answered 404: there is nothing here"), "{error}");
    let body = vec![b'x'; 1 << 20];
    assert_eq!(client::post_reader(&agent, &url("/take"), &body[..]).unwrap().text(100).unwrap(), "1048576");
    assert_eq!(client::post_sized(&agent, &url("/take"), &body[..], 1 << 20).unwrap().text(100).unwrap(), "1048576");
    assert_eq!(client::post_empty(&agent, &url("/take")).unwrap().text(100).unwrap(), "0");
    assert_eq!(client::post_reader(&agent, &url("/ignore"), &body[..10]).unwrap_err().status(), Some(507));
    assert_eq!(client::head(&agent, &url("/ping")).unwrap().header("x-q"), Some("pong"));
    for _ in 0..3 {
        node.told().unwrap();
    }
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("as the test wants"))?;
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }
    assert!(client::post_reader(&agent, &url("/take"), Failing(5)).is_err());
    assert!(node.told().is_err());
    assert!(client::post_sized(&agent, &url("/take"), &body[..10], 20).is_err());
    drop(agent);
    assert!(node.told().is_err());
}

#[test]
fn curl_gets_along_with_the_gate() {
    let node = node();
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("http://{}{path}", node.address);
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--noproxy", "*"]).args(arguments).arg(url).output()
    };
    let Ok(ping) = curl(&[], "/ping") else {
        eprintln!("there is no curl here: nothing was tested");
        return;
    };
    assert_eq!((ping.status.code(), ping.stdout.as_slice()), (Some(0), &b"pong"[..]), "{ping:?}");
    let head = curl(&["-I"], "/ping").unwrap();
    assert!(head.status.success() && head.stdout.starts_with(b"HTTP/1.1 200"), "{head:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(3_000_000).unwrap();
    let body = format!("@{}", file.path().display());
    let sent = curl(&["--data-binary", &body, "-H", "Expect: 100-continue"], "/take").unwrap();
    assert_eq!(sent.stdout, b"3000000", "{sent:?}");
    let unread = curl(&["--data-binary", &body, "-H", "Expect: 100-continue"], "/ignore").unwrap();
    assert_eq!(unread.stdout, b"no room\n", "{unread:?}");
    let broken = curl(&[], "/breaks").unwrap();
    assert_eq!(broken.status.code(), Some(18), "a part was taken for the whole: {broken:?}");
    assert_eq!(curl(&["-0"], "/breaks").unwrap().status.code(), Some(56));
    assert_eq!(curl(&["-0"], "/small").unwrap().stdout, b"hello world\n");
}

/// Descriptors are counted per process, so this one has a process of its own.
#[test]
fn a_shortage_of_descriptors_passes() {
    let this = std::env::current_exe().unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#"ulimit -n 64 && exec "$0" --ignored --exact within_64_descriptors --nocapture"#]).arg(this);
    let output = shell.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

#[test]
#[ignore = "started by a_shortage_of_descriptors_passes"]
fn within_64_descriptors() {
    let node = node_with(Limits { taken: Duration::from_millis(300), ..quick() });
    // With each number of free descriptors something else fails: accept, the gate's way inward, tiny_http's accept, its clone.
    for free in 0..10 {
        let mut clients: Vec<TcpStream> = (0..4).map(|_| node.connect()).collect();
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        hoard.truncate(hoard.len().saturating_sub(free));
        for client in &mut clients {
            let _ = client.write_all(b"GET /ping HTTP/1.1\r\n\r\n");
            let mut answer = Vec::new();
            let _ = client.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = client.read_to_end(&mut answer);
        }
        drop((hoard, clients));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !node.ask("GET /ping HTTP/1.1\r\n\r\n").is_ok_and(|answer| status_of(&answer) == 200) {
            assert!(Instant::now() < deadline, "the port is closed for good after {free} were free");
        }
        node.is_well();
    }
}
