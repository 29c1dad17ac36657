use super::*;
use crate::world::entropy::Dice;
use std::time::Duration;

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const START: u64 = 1_795_426_200_250;
const OLD: &str = "an old key of the cluster";
const NEW: &str = "the new key of the cluster";

fn keys(text: &str) -> Keys {
    Keys::parse(text.as_bytes(), Path::new("keys")).unwrap()
}

fn seal(text: &str, me: NodeId) -> Seal {
    Seal::new(if text.is_empty() { Keys::none() } else { keys(text) }, me, START)
}

fn at(seconds: u64) -> Monotonic {
    Monotonic(Duration::from_secs(seconds))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_vectors_of_rfc_4231_come_out() {
    let long = "aa".repeat(131);
    let text = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let cases = [
        ("0b".repeat(20), text("Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            text("Jefe"),
            text("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        ("aa".repeat(20), "dd".repeat(50), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            "0102030405060708090a0b0c0d0e0f10111213141516171819".into(),
            "cd".repeat(50),
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
        ("0c".repeat(20), text("Test With Truncation"), "a3b6167473100ee06e0c796c2955552b"),
        (
            long.clone(),
            text("Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            long,
            text(
                "This is a test using a larger than block-size key and a larger than block-size data. The key needs \
                 to be hashed before being used by the HMAC algorithm.",
            ),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ];
    for (key, data, expected) in cases {
        let key = HMAC::new(bytes(&key));
        assert_eq!(tag_by(&key, &[&bytes(&data)])[..], bytes(expected)[..TAG], "{data}");
        let (front, back) = data.split_at(data.len() / 4 * 2);
        assert_eq!(tag_by(&key, &[&bytes(front), &bytes(back)])[..], bytes(expected)[..TAG], "{data} in two parts");
    }
}

#[test]
fn a_key_file_has_a_key_per_line_and_comments() {
    let refused = |text: &str| Keys::parse(text.as_bytes(), Path::new("keys")).unwrap_err().to_string();
    assert_eq!(keys(&format!("# ours\n\n  {NEW} \r\n{OLD}")).prepared.len(), 2);
    assert_eq!(keys(&"0123456789abcdef\n".repeat(8)).prepared.len(), 8);
    assert_eq!(refused(&"0123456789abcdef\n".repeat(9)), "the key file keys holds more than 8 keys");
    assert_eq!(refused("# nothing\n \n"), "the key file keys holds no key");
    assert_eq!(refused(&format!("{NEW}\n0123456789abcde")), "the key in line 2 of keys is shorter than 16 characters");
    assert_eq!(format!("{:?}", keys(OLD)), "Keys(1)");
}

#[test]
fn what_is_sealed_for_us_opens_once() {
    for key in [OLD, ""] {
        let (mut sender, mut receiver) = (seal(key, PEER), seal(key, ME));
        for to in [Some(ME), None] {
            let datagram = sender.seal(to, b"body");
            assert_eq!(datagram.len(), b"body".len() + if key.is_empty() { HEAD } else { Seal::OVERHEAD });
            assert_eq!(receiver.open(at(0), &datagram), Ok(Opened { from: PEER, to, body: b"body" }));
            let again = receiver.open(at(0), &datagram);
            assert_eq!(again.err(), (!key.is_empty()).then_some(Refused::Replayed), "{key}");
        }
        let empty = sender.seal(None, b"");
        assert_eq!(receiver.open(at(0), &empty).unwrap().body, b"");
    }
}

#[test]
fn what_is_for_another_node_or_an_earlier_start_or_from_us_is_refused() {
    for key in [OLD, ""] {
        let (mut sender, mut receiver) = (seal(key, PEER), seal(key, ME));
        let other = sender.seal(Some(NodeId(3)), b"body");
        assert_eq!(receiver.open(at(0), &other), Err(Refused::Misdirected));
        for to in [None, Some(ME), Some(PEER)] {
            let own = receiver.seal(to, b"body");
            assert_eq!(receiver.open(at(0), &own), Err(Refused::Mirrored));
        }
    }
}

#[test]
fn keys_are_rotated_without_a_moment_of_silence() {
    let files = [OLD.to_string(), format!("{OLD}\n{NEW}"), format!("{NEW}\n{OLD}"), NEW.to_string()];
    let opens = |from: &str, to: &str| seal(to, ME).open(at(0), &seal(from, PEER).seal(None, b"body")).is_ok();
    for pair in files.windows(2) {
        assert!(opens(&pair[0], &pair[1]) && opens(&pair[1], &pair[0]), "{pair:?}");
    }
    assert!(!opens(&files[0], &files[3]));
}

#[test]
fn other_clusters_other_versions_and_those_with_or_without_a_key_are_told_apart() {
    let mut keyed = seal(OLD, PEER).seal(None, b"a body that is longer than a tag");
    let mut plain = seal("", PEER).seal(None, b"a body that is longer than a tag");
    assert_eq!(seal(NEW, ME).open(at(0), &keyed), Err(Refused::Signature));
    let mut open = seal("", ME);
    assert_eq!(open.open(at(0), &keyed), Err(Refused::Keyed));
    assert_eq!(open.refusals().counts().map(|(_, count)| count), [0, 0, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(seal(OLD, ME).open(at(0), &plain), Err(Refused::Unkeyed));
    plain[5] = VERSION + 1;
    assert!(seal("", ME).open(at(0), &plain).is_ok(), "a later version that still reads ours");
    plain[4] = VERSION + 1;
    assert_eq!(seal("", ME).open(at(0), &plain), Err(Refused::Version));
    keyed[6] ^= 1;
    assert_eq!(seal(OLD, ME).open(at(0), &keyed), Err(Refused::Cluster));
    keyed[0] ^= 1;
    assert_eq!(seal(OLD, ME).open(at(0), &keyed), Err(Refused::NotOurs));
}

#[test]
fn a_restarted_node_counts_on_from_where_no_earlier_start_has_been() {
    let mut earlier = Seal::new(keys(OLD), PEER, START);
    let mut receiver = seal(OLD, ME);
    for _ in 0..3_000 {
        assert!(receiver.open(at(0), &earlier.seal(None, b"")).is_ok());
    }
    assert!(receiver.open(at(0), &Seal::new(keys(OLD), PEER, START + 1).seal(None, b"")).is_ok());
    assert_eq!(receiver.open(at(0), &earlier.seal(None, b"")), Err(Refused::Replayed), "now it is too old");
    assert!(first_counter(u64::MAX) > first_counter(START));
}

#[test]
fn a_window_admits_what_is_late_once_and_nothing_that_is_older_than_it() {
    let mut windows = Windows::default();
    let mut admit = |counter| windows.admit(at(0), 7, counter);
    assert!(admit(5_000) && !admit(5_000));
    assert!(admit(5_000 - WINDOW + 1) && !admit(5_000 - WINDOW + 1));
    assert!(!admit(5_000 - WINDOW));
    assert!(admit(5_001) && !admit(5_001 - WINDOW), "the window moves");
    assert!(admit(5_000 + WINDOW), "its far edge");
    assert!(!admit(5_001) && admit(5_002), "what was seen stays seen, what was not is not");
    assert!(admit(u64::MAX) && !admit(u64::MAX) && admit(u64::MAX - 1) && !admit(5_003));
}

#[test]
fn windows_agree_with_a_list_of_all_that_was_seen() {
    for seed in 0..20 {
        let (mut dice, mut windows) = (Dice::new(seed), Windows::default());
        let (mut seen, mut highest) = (std::collections::BTreeSet::new(), 10_000u64);
        for _ in 0..3_000 {
            let step = if dice.one_in(50) { 3_000 } else { 40 };
            let counter =
                (highest + dice.below(step)).saturating_sub(if dice.one_in(2) { dice.below(1_400) } else { 0 });
            let is_first = seen.is_empty();
            highest = if is_first { counter } else { highest.max(counter) };
            let expected = highest - counter < WINDOW && seen.insert(counter);
            assert_eq!(windows.admit(at(0), 1, counter), expected, "replay with seed {seed}: {counter}");
        }
    }
}

#[test]
fn senders_beyond_the_limit_push_out_the_one_heard_longest_ago() {
    let mut windows = Windows::default();
    for sender in 0..MAX_SENDERS as u64 {
        assert!(windows.admit(at(sender), u128::from(sender), 1));
    }
    let now = at(MAX_SENDERS as u64);
    assert!(windows.admit(now, 0, 2), "the first sender is heard again");
    assert!(windows.admit(now, u128::MAX, 1));
    assert_eq!(windows.senders.len(), MAX_SENDERS);
    assert!(!windows.admit(now, 0, 1), "it is still remembered");
    assert!(windows.admit(now, 1, 1), "the second was forgotten instead");
}

#[test]
fn no_flipped_bit_and_no_garbage_ever_opens_or_changes_anything() {
    let (mut sender, mut receiver) = (seal(OLD, PEER), seal(OLD, ME));
    let datagram = sender.seal(Some(ME), b"a claim about somebody");
    for bit in 0..datagram.len() * 8 {
        let mut flipped = datagram.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(receiver.open(at(0), &flipped).is_err(), "bit {bit}");
    }
    for length in 0..datagram.len() {
        assert!(receiver.open(at(0), &datagram[..length]).is_err(), "cut to {length}");
        assert!(receiver.open(at(0), &datagram[length + 1..]).is_err(), "without the first {length}");
    }
    for seed in 0..20_000 {
        let mut dice = Dice::new(seed);
        let mut garbage: Vec<u8> = (0..dice.below(200)).map(|_| dice.below(256) as u8).collect();
        if dice.one_in(2) {
            // With a head that passes all but the tag.
            garbage.splice(..0, datagram[..HEAD].iter().copied());
        }
        assert!(receiver.open(at(0), &garbage).is_err(), "replay with seed {seed}");
    }
    assert!(receiver.windows.senders.is_empty());
    assert!(receiver.open(at(0), &datagram).is_ok(), "all that left no trace");
}
