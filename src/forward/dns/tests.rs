use super::*;
use crate::world::clock::SystemClock;
use crate::world::fs::real::RealFs;
use std::net::TcpListener;

static CLOCK: std::sync::LazyLock<SystemClock> = std::sync::LazyLock::new(SystemClock::default);

impl Lookup<'static> {
    /// Asks nobody: no configuration, and a port on which nobody listens.
    pub(in crate::forward) fn nowhere() -> Lookup<'static> {
        Lookup { files: &RealFs, resolv_conf: Path::new("/nonexistent"), port: 1, clock: &*CLOCK }
    }
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
    Service { priority, weight, port, target: target.into() }
}

/// An answer as servers send it: the question echoed, owner names as pointers to it.
pub(in crate::forward) fn answer_to(question: &[u8], services: &[Service], flags: u16) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message[6..8].copy_from_slice(&(services.len() as u16).to_be_bytes());
    for service in services {
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&[0, 33, 0, 1, 0, 0, 0, 60]);
        let mut data = Vec::new();
        for field in [service.priority, service.weight, service.port] {
            data.extend_from_slice(&field.to_be_bytes());
        }
        for label in service.target.split('.').filter(|label| !label.is_empty()) {
            data.push(label.len() as u8);
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(&data);
    }
    message
}

#[test]
fn a_question_is_laid_out_byte_by_byte() {
    let question = encode_question(0x1234, "_a._tcp.b.").unwrap();
    let expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02_a\x04_tcp\x01b\x00\x00\x21\x00\x01";
    assert_eq!(question, expected);
    for name in ["", ".", "a..b", &"x".repeat(64), &"a.".repeat(128)] {
        assert_eq!(encode_question(1, name), Err(DnsError::BadName), "{name}");
    }
}

#[test]
fn records_are_read_and_a_service_that_is_not_offered_is_left_out() {
    let question = encode_question(7, "_a._tcp.example.com").unwrap();
    let services = [service(1, 2, 3, "host.example.com"), service(0, 0, 9, "")];
    let answer = answer_to(&question, &services, 0x8180);
    assert_eq!(decode_answer(&answer, &question), Ok(services[..1].to_vec()));
    assert_eq!(decode_answer(&answer_to(&question, &services[1..], 0x8180), &question), Err(DnsError::NoService));
}

#[test]
fn what_is_not_an_answer_to_our_question_is_told_apart() {
    let question = encode_question(7, "a.b").unwrap();
    let services = [service(1, 2, 3, "h")];
    let cases = [(0x0180, DnsError::NotOurs), (0x8380, DnsError::Truncated), (0x8183, DnsError::NoService)];
    for (flags, error) in cases {
        assert_eq!(decode_answer(&answer_to(&question, &services, flags), &question), Err(error));
    }
    assert_eq!(decode_answer(&answer_to(&question, &services, 0x8185), &question), Err(DnsError::Refused(5)));
    let other = encode_question(8, "a.b").unwrap();
    assert_eq!(decode_answer(&answer_to(&other, &services, 0x8180), &question), Err(DnsError::NotOurs));
    let other = encode_question(7, "a.c").unwrap();
    assert_eq!(decode_answer(&answer_to(&other, &services, 0x8180), &question), Err(DnsError::NotOurs));
}

#[test]
fn compression_pointers_are_followed_backwards_and_never_in_circles() {
    let question = encode_question(7, "a.b").unwrap();
    let mut answer = answer_to(&question, &[service(1, 2, 3, "h")], 0x8180);
    // The target "h" becomes "h" and a pointer to the question's "b".
    answer.truncate(answer.len() - 1);
    let length_at = answer.len() - 2 - 6 - 2;
    answer.extend_from_slice(&[0xc0, 14]);
    answer[length_at + 1] = 10;
    assert_eq!(decode_answer(&answer, &question), Ok(vec![service(1, 2, 3, "h.b")]));
    // To itself, forwards, and beyond the end.
    let pointer_at = answer.len() - 2;
    for target in [pointer_at, pointer_at - 2, pointer_at + 1, 0x3fff] {
        answer[pointer_at..].copy_from_slice(&(0xc000 | target as u16).to_be_bytes());
        assert_eq!(decode_answer(&answer, &question), Err(DnsError::Malformed), "to {target}");
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let question = encode_question(7, "_a._tcp.example.com").unwrap();
    let services = [service(1, 2, 3, "host.example.com"), service(1, 9, 4, "other.example.com")];
    let good = answer_to(&question, &services, 0x8180);
    for length in 0..good.len() {
        assert!(decode_answer(&good[..length], &question).is_err(), "{length} bytes");
    }
    for seed in 0..20_000 {
        let mut dice = Dice::new(seed);
        let mut bad = good.clone();
        for _ in 0..1 + dice.below(8) {
            let at = dice.below(bad.len() as u64) as usize;
            bad[at] = if dice.one_in(3) { 0xc0 } else { dice.roll() as u8 };
        }
        bad.truncate(dice.below(bad.len() as u64 + 1) as usize);
        if let Ok(services) = decode_answer(&bad, &question) {
            assert!(services.iter().all(|service| service.target.len() <= 255), "replay with seed {seed}");
        }
    }
}

#[test]
fn lower_priorities_come_first_and_weights_share_among_equals() {
    let services = vec![service(2, 0, 1, "last"), service(1, 9, 1, "heavy"), service(1, 0, 1, "light")];
    let mut heavy_first = 0;
    for seed in 0..1_000 {
        let ordered = in_order(services.clone(), &mut Dice::new(seed));
        assert_eq!((ordered.len(), ordered[2].target.as_str()), (3, "last"), "replay with seed {seed}");
        heavy_first += u32::from(ordered[0].target == "heavy");
    }
    assert!((850..970).contains(&heavy_first), "10 shares of 11 made {heavy_first} of 1000");
}

#[test]
fn nameservers_are_read_from_resolv_conf() {
    let conf = "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.2\n nameserver\t::1 # why\nnameservers 1.1.1.1\nnameserver bad\n";
    assert_eq!(nameservers(conf, 53), ["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    assert_eq!(nameservers("", 53), ["127.0.0.1:53".parse().unwrap()]);
}

#[test]
fn a_cut_answer_is_asked_for_again_over_tcp() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let services: Vec<Service> = (0..MAX_RECORDS as u16).map(|n| service(n, 0, 7651, "h.example.com")).collect();
    let offered = services.clone();
    let serve = || {
        let mut question = [0u8; 512];
        let (length, from) = udp.recv_from(&mut question).unwrap();
        let question = &question[..length];
        udp.send_to(b"not an answer", from).unwrap();
        udp.send_to(&answer_to(&encode_question(1, "x.y").unwrap(), &[], 0x8180), from).unwrap();
        udp.send_to(&answer_to(question, &[], 0x8380), from).unwrap();
        let mut stream = tcp.accept().unwrap().0;
        let mut asked = vec![0; length + 2];
        stream.read_exact(&mut asked).unwrap();
        let answer = answer_to(&asked[2..], &offered, 0x8180);
        stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&answer).unwrap();
    };
    let lookup = Lookup { port, ..Lookup::nowhere() };
    let (found, ()) = crate::world::crew::both(|| lookup.services("_a._tcp.x", &mut Dice::new(3)), serve);
    assert_eq!(found.unwrap(), services);
}
