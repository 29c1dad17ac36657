use super::*;
use crate::world::entropy::Dice;

fn meta() -> Meta {
    let [gossip, api] = ["10.1.2.3:7659", "[fd00::17]:7650"].map(|text| text.parse().unwrap());
    let (store, ingest) = (Some(DataId(5 << 100)), Some(DataId(u128::MAX)));
    Meta { kind: PeerKind::IngestStore, gossip, api, store, ingest, replicas: 2, start: u64::MAX }
}

fn heads() -> Vec<Head> {
    let load = Load { waiting: 127, stored: u64::MAX };
    let (sequence, target) = (7, NodeId(9));
    vec![
        Head::Ping { sequence, load },
        Head::Ack { sequence, load },
        Head::Ask { sequence, target },
        Head::Reached { sequence, target },
        Head::Missed { sequence, target },
        Head::Join,
        Head::Welcome,
        Head::Gossip,
        Head::Digest { salt: 3, hashes: (0..256).collect() },
        Head::Differ { salt: 3, buckets: 16, bits: vec![1, 128] },
        Head::Table,
        Head::Who,
    ]
}

#[test]
fn every_message_reads_back_as_itself() {
    for head in heads() {
        for state in [State::Alive, State::Suspect, State::Dead, State::Left, State::Forgotten] {
            let mut body = write_head(&head);
            write_claim(&mut body, NodeId(1), (u64::MAX, state, 77), Some(&meta()));
            write_claim(&mut body, NodeId(2), (0, state, 78), None);
            pad(&mut body, 1_111);
            let message = read(&body).unwrap();
            assert_eq!((message.head.as_ref(), message.skipped), (Some(&head), 0));
            let accuser = |accuser| if state == State::Suspect { accuser } else { 0 };
            let full = Some(Arc::new(meta()));
            let first = Word { node: NodeId(1), incarnation: u64::MAX, state, accuser: accuser(77), meta: full };
            let second = Word { node: NodeId(2), incarnation: 0, state, accuser: accuser(78), meta: None };
            assert_eq!(message.words, [first, second]);
        }
    }
}

#[test]
fn the_longest_claim_and_the_longest_digest_fit() {
    let meta = Meta { gossip: meta().api, ..meta() };
    let mut body = Vec::new();
    write_claim(&mut body, NodeId(u128::MAX), (u64::MAX, State::Suspect, u32::MAX), Some(&meta));
    assert_eq!(body.len(), CLAIM_MAX);
    let digest = Head::Digest { salt: u64::MAX, hashes: vec![0; 256] };
    assert!(write_head(&digest).len() + crate::cluster::auth::Seal::OVERHEAD <= PACKET);
}

#[test]
fn padding_reaches_the_length_or_one_byte_less() {
    for length in 3..1_200 {
        let mut body = write_head(&Head::Join);
        pad(&mut body, length);
        assert!(body.len() == length || body.len() + 1 == length || length < 5, "{length}: {}", body.len());
        assert_eq!(read(&body).map(|message| message.words.len()), Ok(0), "{length}");
    }
}

#[test]
fn unknown_types_parts_and_trailing_bytes_are_skipped_and_counted() {
    let mut body = vec![200, 2, 1, 2];
    write_claim(&mut body, NodeId(2), (1, State::Alive, 0), None);
    body.extend([99, 3, 1, 2, 3]);
    let message = read(&body).unwrap();
    assert_eq!((message.head, message.words.len(), message.skipped), (None, 1, 2));
    let mut body = vec![1, 8, 0, 0, 0, 1, 5, 6, 77, 78];
    body.extend([BRIEF, 20]);
    body.extend([0; 16]);
    body.extend([3, 1, 9, 9]);
    let message = read(&body).unwrap();
    assert_eq!(message.head, Some(Head::Ping { sequence: 1, load: Load { waiting: 5, stored: 6 } }));
    assert_eq!((message.words.len(), message.skipped), (1, 2));
}

#[test]
fn what_is_cut_short_or_names_no_single_host_is_refused_whole() {
    for head in heads() {
        let mut body = write_head(&head);
        write_claim(&mut body, NodeId(1), (1, State::Alive, 0), Some(&meta()));
        let whole = write_head(&head).len();
        for length in (0..body.len()).filter(|length| *length != whole) {
            assert_eq!(read(&body[..length]), Err(Malformed), "{head:?} cut to {length}");
        }
    }
    for wrong in ["0.0.0.0:1", "255.255.255.255:1", "224.0.0.1:1", "10.0.0.1:0", "[::]:1", "[ff02::1]:1"] {
        let meta = Meta { api: wrong.parse().unwrap(), ..meta() };
        let mut body = write_head(&Head::Gossip);
        write_claim(&mut body, NodeId(1), (1, State::Alive, 0), Some(&meta));
        assert_eq!(read(&body), Err(Malformed), "{wrong}");
    }
}

#[test]
fn nothing_that_comes_makes_the_reader_panic() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let heads = heads();
        let mut body = write_head(&heads[dice.below(heads.len() as u64) as usize]);
        write_claim(&mut body, NodeId(1), (1, State::Suspect, 0), Some(&meta()));
        for _ in 0..200 {
            let mut wrong = body.clone();
            for _ in 0..=dice.below(4) {
                let place = dice.below(wrong.len() as u64) as usize;
                wrong[place] = dice.roll() as u8;
            }
            wrong.truncate(dice.below(wrong.len() as u64 + 1) as usize);
            // Whether it reads or not is all the same.
            let _ = read(&wrong);
            let noise: Vec<u8> = (0..dice.below(64)).map(|_| dice.roll() as u8).collect();
            let _ = read(&noise);
        }
    }
}
