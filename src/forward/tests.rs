//! The whole forwarder against real sockets on loopback.

use super::backoff::Backoff;
use super::*;
use crate::ops::metrics::{FORWARD_BYTES, FORWARD_RECORDS, Metrics};
use crate::unit::{Monotonic, UnixNanos};
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::{Crew, Stop, both};
use crate::world::entropy::Dice;
use crate::world::fs::real::RealFs;
use crate::world::socket;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::io::{Cursor, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// A clock that runs fifty times as fast: five seconds of grace pass in a tenth of one.
struct Hasty(SystemClock);

impl Clock for Hasty {
    fn unix(&self) -> UnixNanos {
        self.0.unix()
    }

    fn now(&self) -> Monotonic {
        Monotonic(self.0.now().0 * 50)
    }
}

/// A world whose lot falls on the first of `addresses`.
fn world(addresses: usize) -> World {
    let first = |seed: &u64| Backoff::new(addresses, Dice::new(Dice::new(*seed).roll())).attempt().address == 0;
    World {
        clock: Arc::new(SystemClock::default()),
        files: Arc::new(RealFs),
        resolv_conf: "/nonexistent".into(),
        dns_port: 1,
        metrics: Arc::new(Metrics::default()),
        crew: Crew::default(),
        stop: Stop::default(),
        dice: Dice::new((0..1_000).find(first).unwrap()),
    }
}

fn options(mode: Mode, listeners: &[&TcpListener]) -> Options {
    let parse = |listener: &&TcpListener| Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    Options {
        prefixes: Vec::new(),
        addresses: listeners.iter().map(parse).collect(),
        mode,
        buffer: Buffer::Block,
        buffer_size: DEFAULT_BUFFER_SIZE,
    }
}

fn listen() -> TcpListener {
    socket::listen("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Accepts one connection; a test in which nothing comes fails instead of hanging.
fn accept(listener: &TcpListener) -> TcpStream {
    let ready = socket::wait_readable(listener, Some(Duration::from_secs(20))).unwrap();
    assert!(ready.readable, "nobody connects");
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn read_some(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    stream.read_exact(&mut got).unwrap();
    got
}

/// Reads to the end and closes cleanly, as a server does that has kept everything.
fn take_all(listener: &TcpListener) -> Vec<u8> {
    let mut got = Vec::new();
    accept(listener).read_to_end(&mut got).unwrap();
    got
}

fn reset(stream: TcpStream) {
    socket::reset_on_close(&stream).unwrap();
}

/// Input that comes when the test says so, and ends when the test drops its end.
struct Feed(Receiver<Vec<u8>>, Cursor<Vec<u8>>);

fn feed() -> (Sender<Vec<u8>>, Feed) {
    let (sender, receiver) = bounded(16);
    (sender, Feed(receiver, Cursor::default()))
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.1.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            match self.0.recv() {
                Ok(bytes) => self.1 = Cursor::new(bytes),
                Err(_) => return Ok(0),
            }
        }
    }
}

#[test]
fn every_byte_arrives_long_lines_and_a_last_one_without_lf_included() {
    let listener = listen();
    let mut input = b"100% done\r\n\n\0\xff %s\n".to_vec();
    input.extend(vec![b'x'; 10 << 20]);
    input.extend_from_slice(b"\nshort\nlast");
    for mode in [Mode::Fast, Mode::Durable] {
        let world = world(1);
        let reading = Cursor::new(input.clone());
        let take = || {
            let mut got = take_all(&listener);
            while got.len() < input.len() {
                got.extend(take_all(&listener));
            }
            got
        };
        let (summary, got) = both(|| run(options(mode, &[&listener]), reading, &world), take);
        let summary = summary.unwrap();
        assert!(got == input, "{mode:?}: {} bytes of {}", got.len(), input.len());
        assert_eq!((summary.bytes, summary.records, summary.end_in_doubt), (input.len() as u64, 6, false));
        assert_eq!(world.metrics.counter(FORWARD_BYTES, &[]).get(), input.len() as u64);
        assert_eq!(world.metrics.counter(FORWARD_RECORDS, &[]).get(), 6);
    }
}

#[test]
fn prefixes_stand_before_each_line() {
    let listener = listen();
    let options = Options { prefixes: vec![b"a".to_vec(), b"%d".to_vec()], ..options(Mode::Fast, &[&listener]) };
    let (summary, got) = both(|| run(options, &b"1\n2"[..], &world(1)), || take_all(&listener));
    assert_eq!(got, b"a %d 1\na %d 2");
    assert_eq!(summary.unwrap().records, 2);
}

#[test]
fn a_line_is_sent_as_soon_as_it_is_read() {
    let listener = listen();
    let (sender, feed) = feed();
    let talk = || {
        sender.send(b"one\n".to_vec()).unwrap();
        let mut stream = accept(&listener);
        assert_eq!(read_some(&mut stream, 4), b"one\n");
        sender.send(b"two\n".to_vec()).unwrap();
        assert_eq!(read_some(&mut stream, 4), b"two\n");
        drop(sender);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    };
    let (summary, ()) = both(|| run(options(Mode::Fast, &[&listener]), feed, &world(1)), talk);
    assert!(!summary.unwrap().end_in_doubt);
}

#[test]
fn an_ingester_that_does_not_listen_is_passed_over() {
    let (dead, alive) = (listen(), listen());
    for mode in [Mode::Fast, Mode::Durable] {
        let options = options(mode, &[&dead, &alive]);
        if mode == Mode::Fast {
            // From here on nobody listens there.
            socket2::SockRef::from(&dead).shutdown(std::net::Shutdown::Both).unwrap();
        }
        let (summary, got) = both(|| run(options, &b"a\nb\n"[..], &world(2)), || take_all(&alive));
        assert_eq!((got, summary.unwrap().connections), (b"a\nb\n".to_vec(), 1));
    }
}

#[test]
fn no_line_is_written_into_a_connection_that_ended_while_idle() {
    for with_reset in [true, false] {
        let (first, second) = (listen(), listen());
        let (sender, feed) = feed();
        let talk = || {
            sender.send(b"one\n".to_vec()).unwrap();
            let mut stream = accept(&first);
            assert_eq!(read_some(&mut stream, 4), b"one\n");
            if with_reset {
                reset(stream);
            } else {
                drop(stream);
            }
            sender.send(b"two\n".to_vec()).unwrap();
            drop(sender);
            assert_eq!(take_all(&second), b"two\n");
        };
        let (summary, ()) = both(|| run(options(Mode::Fast, &[&first, &second]), feed, &world(2)), talk);
        assert_eq!(summary.unwrap().connections, 2);
    }
}

#[test]
fn when_a_server_dies_in_mid_stream_the_next_gets_the_rest_from_the_start_of_a_line() {
    let (first, second) = (listen(), listen());
    let input: Vec<u8> = (0..400_000).flat_map(|n| format!("this is line {n}\n").into_bytes()).collect();
    let talk = || {
        let mut stream = accept(&first);
        let head = read_some(&mut stream, 100_000);
        reset(stream);
        (head, take_all(&second))
    };
    let reading = Cursor::new(input.clone());
    let (summary, (head, rest)) = both(|| run(options(Mode::Fast, &[&first, &second]), reading, &world(2)), talk);
    assert!(input.starts_with(&head) && input.ends_with(&rest) && rest.starts_with(b"this is line "));
    let summary = summary.unwrap();
    assert_eq!((summary.records, summary.bytes, summary.connections), (400_000, input.len() as u64, 2));
}

#[test]
fn a_server_that_lets_us_wait_is_asked_for_a_sign_of_life_and_not_left() {
    let listener = listen();
    let input = vec![b'\n'; 64 << 20];
    let world = World { clock: Arc::new(Hasty(SystemClock::default())), ..world(1) };
    let talk = || {
        let mut stream = accept(&listener);
        // Nothing is read until we were asked twice whether we are alive.
        for _ in 0..2 {
            assert_eq!(accept(&listener).read(&mut [0]).unwrap(), 0);
        }
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got.len()
    };
    let reading = Cursor::new(input.clone());
    let (summary, got) = both(|| run(options(Mode::Fast, &[&listener]), reading, &world), talk);
    assert_eq!((summary.unwrap().connections, got), (1, input.len()));
}

#[test]
fn a_durable_window_is_sent_again_until_a_server_closes_cleanly() {
    let (first, second) = (listen(), listen());
    let talk = || {
        // All of it arrives, but it is not kept: a reset.
        let mut stream = accept(&first);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"a\nb\nc");
        reset(stream);
        // A close that leaves bytes unread is a reset too.
        let mut stream = accept(&second);
        read_some(&mut stream, 1);
        drop(stream);
        take_all(&first)
    };
    let (summary, got) = both(|| run(options(Mode::Durable, &[&first, &second]), &b"a\nb\nc"[..], &world(2)), talk);
    assert_eq!(got, b"a\nb\nc");
    let expected = Summary { bytes: 5, records: 3, connections: 3, ..Summary::default() };
    assert_eq!(summary.unwrap(), expected);
}

#[test]
fn durable_windows_of_a_large_input_arrive_in_order() {
    let listener = listen();
    let input: Vec<u8> = (0..600_000).flat_map(|n| format!("this is line {n}\n").into_bytes()).collect();
    let take = || {
        let (mut got, mut windows) = (Vec::new(), 0);
        while got.len() < input.len() {
            let window = take_all(&listener);
            assert!(window.ends_with(b"\n") && window.len() <= durable::WINDOW + lines::LONG_LINE);
            got.extend(window);
            windows += 1;
        }
        (got, windows)
    };
    let reading = Cursor::new(input.clone());
    let (summary, (got, windows)) = both(|| run(options(Mode::Durable, &[&listener]), reading, &world(1)), take);
    assert!(got == input);
    assert_eq!((summary.unwrap().connections, windows), (windows, input.len().div_ceil(durable::WINDOW) as u64));
}

#[test]
fn a_stop_with_no_ingester_ends_with_what_is_left() {
    let dead = listen();
    for mode in [Mode::Fast, Mode::Durable] {
        let options = options(mode, &[&dead]);
        let _ = socket2::SockRef::from(&dead).shutdown(std::net::Shutdown::Both);
        let world = World { clock: Arc::new(Hasty(SystemClock::default())), ..world(1) };
        let (sender, feed) = feed();
        sender.send(b"a\nb\nbegun".to_vec()).unwrap();
        let stop = world.stop.clone();
        let (outcome, ()) = both(
            || run(options, feed, &world),
            || {
                // The channel is empty once the reader has taken what was sent.
                while !sender.is_empty() {
                    stop.wait(Duration::from_millis(1));
                }
                stop.raise();
            },
        );
        let error = outcome.unwrap_err();
        assert!(matches!(error, ForwardError::Undelivered { bytes: 4..=9, .. }), "{mode:?}: {error}");
        assert!(error.to_string().contains("connecting to 127.0.0.1:"), "{error}");
        drop(sender);
        assert!(world.crew.join_all(Duration::from_secs(20)).late.is_empty(), "the reader ends when its input does");
    }
}

#[test]
fn a_full_buffer_drops_the_oldest_and_the_newest_arrive() {
    let listener = listen();
    let options = Options { buffer: Buffer::Drop, buffer_size: Bytes(256 << 10), ..options(Mode::Fast, &[&listener]) };
    let input: Vec<u8> = (0..2_000_000).flat_map(|n| format!("this is line {n}\n").into_bytes()).collect();
    let reading = Cursor::new(input.clone());
    let world = world(1);
    let (crew, dropped) = (world.crew.clone(), world.metrics.counter(crate::ops::metrics::FORWARD_DROPPED, &[]));
    let take = || {
        let mut stream = accept(&listener);
        // Nothing is read until the input has ended: reading it is not held up by us.
        assert!(crew.join_all(Duration::from_secs(20)).late.is_empty());
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    };
    let (summary, got) = both(|| run(options, reading, &world), take);
    let summary = summary.unwrap();
    assert!(summary.dropped > 0 && summary.dropped == dropped.get());
    assert_eq!(summary.records + summary.dropped, 2_000_000);
    assert!(got.ends_with(b"this is line 1999999\n"));
    assert!(got.split_inclusive(|b| *b == b'\n').all(|line| line.starts_with(b"this is line ")));
}

#[test]
fn input_that_fails_is_an_error_after_what_was_read_has_arrived() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let listener = listen();
    let input = Cursor::new(b"a\nb").chain(Broken);
    let (outcome, got) = both(|| run(options(Mode::Fast, &[&listener]), input, &world(1)), || take_all(&listener));
    assert_eq!(got, b"a\nb");
    assert_eq!(outcome.unwrap_err().to_string(), "reading standard input: the disk is on fire");
}

#[test]
fn services_lead_to_their_host_and_port() {
    let listener = listen();
    let nameserver = UdpSocket::bind("127.0.0.1:0").unwrap();
    nameserver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let world = World { dns_port: nameserver.local_addr().unwrap().port(), ..world(1) };
    let port = listener.local_addr().unwrap().port();
    let options = Options {
        addresses: vec![Address::parse("tcp+dnssrv://_fast._tcp.example.com").unwrap()],
        ..options(Mode::Fast, &[])
    };
    let serve = || {
        let mut question = [0u8; 512];
        let (length, from) = nameserver.recv_from(&mut question).unwrap();
        let service = dns::Service { priority: 1, weight: 1, port, target: "127.0.0.1".into() };
        nameserver.send_to(&dns::tests::answer_to(&question[..length], &[service], 0x8180), from).unwrap();
        take_all(&listener)
    };
    let (summary, got) = both(|| run(options, &b"a\n"[..], &world), serve);
    assert_eq!((got, summary.unwrap().records), (b"a\n".to_vec(), 1));
}

#[test]
fn what_this_version_does_not_do_is_refused_by_name_before_anything_is_read() {
    let listener = listen();
    let base = options(Mode::Fast, &[&listener]);
    let refuse = |options: Options| run(options, io::empty(), &world(1)).unwrap_err().to_string();
    assert_eq!(refuse(Options { mode: Mode::Bulk, ..base.clone() }), "-mode bulk is not in this version");
    assert_eq!(refuse(Options { buffer: Buffer::Disk, ..base.clone() }), "-buffer disk is not in this version");
    assert_eq!(refuse(Options { addresses: Vec::new(), ..base.clone() }), "no address to forward to");
    let long = refuse(Options { prefixes: vec![b"a\n".to_vec()], ..base });
    assert_eq!(long, "a prefix has a line feed in it, or all together are over 65536 bytes long");
}
