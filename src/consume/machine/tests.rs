use super::*;

const MS: u64 = 1;

fn settings(replicas: usize) -> Settings {
    Settings {
        replicas,
        target_size: Bytes(100),
        target_age: Duration::from_secs(3),
        delay: Duration::from_millis(100),
        renew_every: Duration::from_secs(2),
    }
}

fn at(ms: u64) -> Monotonic {
    Monotonic(Duration::from_millis(ms * MS))
}

fn peer(name: &str) -> Peer {
    name.into()
}

fn woke(ingesters: &[&str], stores: &[&str]) -> Event {
    let all = |names: &[&str]| names.iter().map(|name| peer(name)).collect();
    Event::Woke { ingesters: all(ingesters), stores: all(stores) }
}

fn ask(from: &str) -> Vec<Action> {
    vec![Action::Ask { from: peer(from) }]
}

fn piece(from: &str, id: u128, len: u64) -> Piece {
    Piece { from: peer(from), offer: Offer { id: Id(id), len: Bytes(len) } }
}

fn digest() -> Digest {
    Digest { first: Id(1), last: Id(9), records: 3, len: Bytes(100), crc32: 7 }
}

fn has(store: &str, id: u128) -> (Peer, Answer) {
    (peer(store), Answer::Has(Receipt { store_id: StoreId(id), digest: digest() }))
}

fn copied(answers: Vec<(Peer, Answer)>) -> Event {
    Event::Copied { sent: digest(), answers }
}

fn copy(pieces: &[Piece], to: &[&str]) -> Action {
    Action::Copy { pieces: pieces.to_vec(), to: to.iter().map(|name| peer(name)).collect() }
}

/// A consumer that has just been told to copy one full piece from `i`.
fn copying(replicas: usize, stores: &[&str]) -> (Consumer, Piece, Vec<Action>) {
    let mut consumer = Consumer::new(settings(replicas));
    assert_eq!(consumer.step(at(0), woke(&["i"], stores)), ask("i"));
    let piece = piece("i", 1, 100);
    let actions = consumer.step(at(0), Event::Offered(piece.clone()));
    (consumer, piece, actions)
}

#[test]
fn nothing_is_gathered_while_too_few_stores_are_known() {
    let mut consumer = Consumer::new(settings(2));
    assert_eq!(consumer.step(at(0), woke(&["i"], &["a"])), [Action::WaitUntil(at(100))]);
    assert_eq!(consumer.step(at(100), woke(&["i"], &["a", "b"])), ask("i"));
}

#[test]
fn what_is_in_hand_is_given_back_when_stores_go_away() {
    let mut consumer = Consumer::new(settings(2));
    consumer.step(at(0), woke(&["i"], &["a", "b"]));
    consumer.step(at(0), Event::Offered(piece("i", 1, 10)));
    let actions = consumer.step(at(5), woke(&["i"], &["a"]));
    assert_eq!(actions, [Action::FailBack(vec![piece("i", 1, 10)]), Action::WaitUntil(at(105))]);
}

#[test]
fn an_idle_consumer_waits_longer_each_time_but_at_most_a_second() {
    let mut consumer = Consumer::new(settings(1));
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(consumer.step(at(0), woke(&["i"], &["a"])), ask("i"));
        waits.extend(consumer.step(at(0), Event::Nothing { from: peer("i") }));
    }
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000].map(|ms| Action::WaitUntil(at(ms))));
    consumer.step(at(0), woke(&["i"], &["a"]));
    consumer.step(at(0), Event::Offered(piece("i", 1, 10)));
    let actions = consumer.step(at(0), Event::Nothing { from: peer("i") });
    assert_eq!(actions, [Action::WaitUntil(at(100))], "work makes it attentive again");
}

#[test]
fn ingesters_are_asked_in_turn_and_without_waiting_while_there_is_a_backlog() {
    let mut consumer = Consumer::new(settings(1));
    assert_eq!(consumer.step(at(0), woke(&["i", "j", "k"], &["a"])), ask("i"));
    assert_eq!(consumer.step(at(0), Event::Offered(piece("i", 1, 10))), ask("j"));
    assert_eq!(consumer.step(at(0), Event::Nothing { from: peer("j") }), ask("k"));
    assert_eq!(consumer.step(at(0), Event::Offered(piece("k", 2, 10))), ask("i"));
    assert_eq!(consumer.step(at(0), Event::Offered(piece("i", 3, 10))), ask("k"));
    assert_eq!(consumer.step(at(0), Event::Nothing { from: peer("k") }), ask("i"));
    let actions = consumer.step(at(0), Event::Nothing { from: peer("i") });
    assert_eq!(actions, [Action::WaitUntil(at(100))]);
    assert_eq!(consumer.step(at(100), woke(&["i", "j", "k"], &["a"])), ask("j"), "a new round asks all again");
}

#[test]
fn a_silent_ingester_is_left_alone_for_a_second() {
    let mut consumer = Consumer::new(settings(1));
    assert_eq!(consumer.step(at(0), woke(&["i", "j"], &["a"])), ask("i"));
    assert_eq!(consumer.step(at(0), Event::Silent { from: peer("i") }), ask("j"));
    consumer.step(at(0), Event::Nothing { from: peer("j") });
    assert_eq!(consumer.step(at(500), woke(&["i", "j"], &["a"])), ask("j"));
    consumer.step(at(500), Event::Nothing { from: peer("j") });
    assert_eq!(consumer.step(at(1000), woke(&["i", "j"], &["a"])), ask("i"));
}

#[test]
fn a_batch_is_copied_when_it_is_full_or_old_or_has_many_pieces() {
    let (_, piece_1, actions) = copying(1, &["a"]);
    assert_eq!(actions, [copy(&[piece_1], &["a"])]);

    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i"], &["a"]));
    consumer.step(at(0), Event::Offered(piece("i", 1, 10)));
    let actions = consumer.step(at(2950), Event::Nothing { from: peer("i") });
    assert_eq!(actions, [Action::Renew(vec![piece("i", 1, 10)]), Action::WaitUntil(at(3000))]);
    assert_eq!(consumer.step(at(3000), woke(&["i"], &["a"])), [copy(&[piece("i", 1, 10)], &["a"])]);

    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i"], &["a"]));
    let mut actions = Vec::new();
    for id in 0..MOST_PIECES as u128 {
        actions = consumer.step(at(0), Event::Offered(piece("i", id, 1)));
    }
    assert!(matches!(&actions[..], [Action::Copy { pieces, .. }] if pieces.len() == MOST_PIECES));
}

#[test]
fn a_batch_is_committed_when_enough_different_stores_have_it() {
    let (mut consumer, piece, actions) = copying(2, &["a", "b", "c"]);
    assert_eq!(actions, [copy(std::slice::from_ref(&piece), &["a", "b"])]);
    assert_eq!(consumer.step(at(5), copied(vec![has("a", 1), has("b", 2)])), [Action::Commit(vec![piece])]);
    assert_eq!(consumer.step(at(5), woke(&["i"], &["a", "b", "c"])), ask("i"), "no wait while there is a backlog");
}

#[test]
fn one_store_behind_two_addresses_is_one_copy() {
    let (mut consumer, piece, _) = copying(2, &["a", "b", "c"]);
    let actions = consumer.step(at(5), copied(vec![has("a", 1), has("b", 1)]));
    assert_eq!(actions, [copy(std::slice::from_ref(&piece), &["c"])]);
    assert_eq!(consumer.step(at(6), copied(vec![has("c", 1)]))[0], Action::FailBack(vec![piece]));
}

#[test]
fn a_store_that_has_something_else_is_no_copy() {
    let (mut consumer, piece, _) = copying(1, &["a"]);
    let other = Digest { crc32: 8, ..digest() };
    let answer = Answer::Has(Receipt { store_id: StoreId(1), digest: other });
    let actions = consumer.step(at(5), copied(vec![(peer("a"), answer)]));
    assert_eq!(actions, [Action::FailBack(vec![piece]), Action::WaitUntil(at(105))]);
}

#[test]
fn another_store_is_tried_where_one_refuses_and_the_first_copy_counts_on() {
    let (mut consumer, piece, _) = copying(2, &["a", "b", "c"]);
    let actions = consumer.step(at(5), copied(vec![has("a", 1), (peer("b"), Answer::HasNot)]));
    assert_eq!(actions, [copy(std::slice::from_ref(&piece), &["c"])]);
    assert_eq!(consumer.step(at(6), copied(vec![has("c", 3)])), [Action::Commit(vec![piece])]);
}

#[test]
fn a_batch_is_failed_back_when_too_few_stores_answer() {
    let (mut consumer, piece, _) = copying(2, &["a", "b"]);
    let actions = consumer.step(at(5), copied(vec![has("a", 1), (peer("b"), Answer::HasNot)]));
    assert_eq!(actions, [Action::FailBack(vec![piece]), Action::WaitUntil(at(105))]);
    let (mut consumer, piece, _) = copying(1, &["a"]);
    assert_eq!(consumer.step(at(5), Event::NotCopied)[0], Action::FailBack(vec![piece]));
}

#[test]
fn a_copy_of_other_content_does_not_count_on() {
    let (mut consumer, piece, _) = copying(2, &["a", "b", "c"]);
    consumer.step(at(5), copied(vec![has("a", 1), (peer("b"), Answer::HasNot)]));
    let other = Digest { crc32: 8, ..digest() };
    let answer = Answer::Has(Receipt { store_id: StoreId(3), digest: other });
    let actions = consumer.step(at(6), Event::Copied { sent: other, answers: vec![(peer("c"), answer)] });
    assert_eq!(actions[0], Action::FailBack(vec![piece]));
}

#[test]
fn the_rest_of_a_batch_goes_on_without_a_segment_that_cannot_be_merged() {
    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i"], &["a"]));
    let (bad, good) = (piece("i", 1, 50), piece("i", 2, 50));
    consumer.step(at(0), Event::Offered(bad.clone()));
    assert_eq!(consumer.step(at(0), Event::Offered(good.clone())), [copy(&[bad.clone(), good.clone()], &["a"])]);
    let actions = consumer.step(at(0), Event::Spoilt { piece: bad.clone(), fault: Fault::Unreadable });
    assert_eq!(actions, [Action::FailBack(vec![bad]), copy(std::slice::from_ref(&good), &["a"])]);
    assert_eq!(consumer.step(at(0), copied(vec![has("a", 1)])), [Action::Commit(vec![good])]);
}

#[test]
fn a_segment_that_fails_three_times_is_set_aside() {
    let mut consumer = Consumer::new(settings(1));
    for failure in 1..=3 {
        consumer.step(at(0), woke(&["i"], &["a"]));
        let bad = piece("i", 1, 100);
        consumer.step(at(0), Event::Offered(bad.clone()));
        let actions = consumer.step(at(0), Event::Spoilt { piece: bad.clone(), fault: Fault::Unreadable });
        let expected = if failure < 3 { Action::FailBack(vec![bad]) } else { Action::SetAside(bad) };
        assert_eq!(actions[0], expected, "failure {failure}");
        assert!(matches!(actions[1], Action::WaitUntil(_)), "a failure is no reason to spin");
    }
}

#[test]
fn an_ingester_that_goes_away_takes_all_its_pieces_out_and_none_is_counted_as_failed() {
    let mut consumer = Consumer::new(settings(1));
    for _ in 0..5 {
        consumer.step(at(0), woke(&["i", "j"], &["a"]));
        let pieces = [piece("i", 1, 40), piece("j", 2, 30), piece("i", 3, 40)];
        for piece in &pieces {
            consumer.step(at(0), Event::Offered(piece.clone()));
        }
        let actions = consumer.step(at(0), Event::Spoilt { piece: pieces[0].clone(), fault: Fault::Unreachable });
        assert_eq!(actions, [copy(&pieces[1..2], &["a"])]);
        consumer.step(at(0), copied(vec![has("a", 1)]));
    }
}

#[test]
fn what_is_in_hand_is_given_back_at_the_end() {
    let (mut consumer, piece, _) = copying(1, &["a"]);
    assert_eq!(consumer.step(at(9), Event::Stopping), [Action::FailBack(vec![piece])]);
    assert_eq!(consumer.step(at(9), Event::Stopping), []);
}
