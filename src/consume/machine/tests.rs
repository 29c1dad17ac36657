use super::*;

const MS: u64 = 1;

fn settings(replicas: usize) -> Settings {
    Settings {
        replicas,
        target_size: Bytes(100),
        target_age: Duration::from_secs(3),
        delay: Duration::from_millis(100),
        renew_every: Duration::from_secs(2),
        turn: 0,
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

/// What begins with a question to these, and then waits for the answers.
fn ask(from: &[&str], until: u64) -> Vec<Action> {
    let from = from.iter().map(|name| peer(name)).collect();
    vec![Action::Ask { from }, Action::WaitUntil(at(until))]
}

fn nothing(from: &str) -> Event {
    Event::Nothing { from: peer(from) }
}

fn wait(until: u64) -> Vec<Action> {
    vec![Action::WaitUntil(at(until))]
}

fn piece(from: &str, id: u128, len: u64) -> Piece {
    Piece { from: peer(from), offer: Offer { id: Id(id), len: Bytes(len), age: Duration::ZERO, is_last: false } }
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

fn copy(pieces: &[Piece], to: &[&str], spare: usize) -> Action {
    Action::Copy { pieces: pieces.to_vec(), to: to.iter().map(|name| peer(name)).collect(), spare }
}

fn commit(pieces: &[Piece], stores: &[u128]) -> Action {
    Action::Commit { pieces: pieces.to_vec(), stores: stores.iter().map(|id| DataId(*id)).collect() }
}

/// A consumer that has just been told to copy one full piece from `i`.
fn copying(replicas: usize, stores: &[&str]) -> (Consumer, Piece, Vec<Action>) {
    let mut consumer = Consumer::new(settings(replicas));
    assert_eq!(consumer.step(at(0), woke(&["i"], stores)), ask(&["i"], 1000));
    let piece = piece("i", 1, 100);
    let actions = consumer.step(at(0), Event::Offered(piece.clone()));
    (consumer, piece, actions)
}

#[test]
fn nothing_is_gathered_while_too_few_stores_are_known() {
    let mut consumer = Consumer::new(settings(2));
    assert_eq!(consumer.step(at(0), woke(&["i"], &["a"])), wait(100));
    assert_eq!(consumer.step(at(100), woke(&["i"], &["a", "b"])), ask(&["i"], 1100));
}

#[test]
fn what_is_in_hand_is_given_back_when_stores_go_away_and_so_is_what_comes_later() {
    let mut consumer = Consumer::new(settings(2));
    consumer.step(at(0), woke(&["i", "j"], &["a", "b"]));
    consumer.step(at(0), Event::Offered(piece("i", 1, 10)));
    let actions = consumer.step(at(5), woke(&["i", "j"], &["a"]));
    assert_eq!(actions, [Action::FailBack(vec![piece("i", 1, 10)]), Action::WaitUntil(at(105))]);
    let actions = consumer.step(at(6), Event::Offered(piece("j", 2, 10)));
    assert_eq!(actions, [Action::FailBack(vec![piece("j", 2, 10)]), Action::WaitUntil(at(105))]);
}

#[test]
fn an_ingester_without_segments_is_left_alone_longer_each_time_but_at_most_a_second() {
    let mut consumer = Consumer::new(settings(1));
    let mut now = 0;
    for wait_ms in [100, 200, 400, 800, 1000, 1000] {
        // While it has not answered, only the members are looked at.
        assert_eq!(consumer.step(at(now), woke(&["i"], &["a"])), ask(&["i"], now + 1000));
        assert_eq!(consumer.step(at(now), nothing("i")), wait(now + wait_ms));
        now += wait_ms;
    }
    consumer.step(at(now), woke(&["i"], &["a"]));
    consumer.step(at(now), Event::Offered(piece("i", 1, 10)));
    assert_eq!(consumer.step(at(now), nothing("i")), wait(now + 100), "work makes it attentive again");
}

#[test]
fn ingesters_are_asked_all_at_once_and_again_without_waiting_while_there_is_a_backlog() {
    let mut consumer = Consumer::new(settings(1));
    assert_eq!(consumer.step(at(0), woke(&["i", "j", "k"], &["a"])), ask(&["i", "j", "k"], 1000));
    assert_eq!(consumer.step(at(0), nothing("j")), wait(100));
    assert_eq!(consumer.step(at(0), Event::Offered(piece("k", 2, 10))), ask(&["k"], 100));
    assert_eq!(consumer.step(at(0), nothing("k")), wait(100));
    assert_eq!(consumer.step(at(100), woke(&["i", "j", "k"], &["a"])), ask(&["j", "k"], 1100), "i has yet to answer");
}

#[test]
fn where_there_are_many_ingesters_they_are_asked_in_turn() {
    let names: Vec<String> = (0..20).map(|n| format!("i{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut consumer = Consumer::new(Settings { turn: 5, ..settings(1) });
    assert_eq!(consumer.step(at(0), woke(&names, &["a"])), ask(&names[5..13], 100));
    for n in 0..7 {
        let answered = names[5 + n];
        let asked = names[(13 + n) % 20];
        assert_eq!(consumer.step(at(0), Event::Offered(piece(answered, n as u128, 1))), ask(&[asked], 100));
    }
}

#[test]
fn a_silent_ingester_is_left_alone_twice_as_long_each_time() {
    let mut consumer = Consumer::new(settings(1));
    let (mut now, mut rests) = (0, Vec::new());
    consumer.step(at(0), woke(&["i"], &["a"]));
    for _ in 0..7 {
        consumer.step(at(now), Event::Silent { from: peer("i") });
        let silent_since = now;
        // Looked at every 10 ms, like a consumer that has other work.
        while !matches!(&consumer.step(at(now), woke(&["i"], &["a"]))[0], Action::Ask { .. }) {
            now += 10;
        }
        rests.push((now - silent_since) / 1000);
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
    consumer.step(at(now), nothing("i"));
    consumer.step(at(now), Event::Silent { from: peer("i") });
    assert!(matches!(consumer.step(at(now + 1000), woke(&["i"], &["a"]))[0], Action::Ask { .. }), "it had answered");
}

#[test]
fn a_batch_is_copied_when_it_is_full_or_old_or_has_many_pieces() {
    let (_, piece_1, actions) = copying(1, &["a"]);
    assert_eq!(actions, [copy(&[piece_1], &["a"], 0)]);

    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i"], &["a"]));
    consumer.step(at(0), Event::Offered(piece("i", 1, 10)));
    let actions = consumer.step(at(2950), woke(&["i"], &["a"]));
    assert_eq!(actions, [Action::Renew(vec![piece("i", 1, 10)]), Action::WaitUntil(at(3000))]);
    assert_eq!(consumer.step(at(3000), woke(&["i"], &["a"])), [copy(&[piece("i", 1, 10)], &["a"], 0)]);

    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i"], &["a"]));
    let mut actions = Vec::new();
    for id in 0..MOST_PIECES as u128 {
        actions = consumer.step(at(0), Event::Offered(piece("i", id, 1)));
    }
    assert!(matches!(&actions[..], [Action::Copy { pieces, .. }] if pieces.len() == MOST_PIECES));
}

/// A piece whose first record is so old; `is_last` where its ingester has nothing else.
fn aged(from: &str, id: u128, age_ms: u64, is_last: bool) -> Piece {
    let offer = Offer { id: Id(id), len: Bytes(10), age: Duration::from_millis(age_ms), is_last };
    Piece { from: peer(from), offer }
}

#[test]
fn a_batch_with_an_old_record_is_copied_when_those_that_were_asked_have_answered() {
    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i", "j"], &["a"]));
    let (one, two) = (aged("i", 1, 2500, false), aged("j", 2, 100, false));
    assert_eq!(consumer.step(at(10), Event::Offered(one.clone()))[0], ask(&["i"], 0)[0]);
    assert_eq!(consumer.step(at(10), Event::Offered(two.clone()))[0], ask(&["j"], 0)[0]);
    assert_eq!(consumer.step(at(20), nothing("i")), wait(120));
    assert_eq!(consumer.step(at(20), nothing("j")), wait(120), "it is 2.5 s old");
    consumer.step(at(509), woke(&["i", "j"], &["a"]));
    consumer.step(at(509), nothing("i"));
    assert_eq!(consumer.step(at(509), nothing("j")), wait(510));
    assert_eq!(consumer.step(at(510), woke(&["i", "j"], &["a"])), [copy(&[one, two], &["a"], 0)]);
}

#[test]
fn what_is_all_there_is_waits_for_nothing_but_the_answers_of_others_and_not_for_those_that_hang() {
    for hangs in [false, true] {
        let mut consumer = Consumer::new(settings(1));
        consumer.step(at(0), woke(&["i", "j"], &["a"]));
        let last = aged("i", 1, 200, true);
        assert_eq!(consumer.step(at(0), Event::Offered(last.clone()))[0], ask(&["i"], 0)[0]);
        assert!(matches!(consumer.step(at(0), nothing("i"))[..], [Action::WaitUntil(_)]));
        let now = if hangs { 3000 } else { 7 };
        let event = if hangs { woke(&["i", "j"], &["a"]) } else { nothing("j") };
        assert_eq!(consumer.step(at(now), event), [copy(&[last], &["a"], 0)]);
    }
}

#[test]
fn batches_that_are_not_full_are_half_the_target_age_apart() {
    let mut consumer = Consumer::new(Settings { target_size: Bytes(1 << 20), ..settings(1) });
    let mut times = Vec::new();
    for now in (0..10_000).step_by(250) {
        consumer.step(at(now), woke(&["i"], &["a"]));
        consumer.step(at(now), Event::Offered(aged("i", now.into(), 3000, true)));
        if let [Action::Copy { .. }] = consumer.step(at(now), nothing("i"))[..] {
            times.push(now);
            consumer.step(at(now), copied(vec![has("a", 1)]));
        }
    }
    assert_eq!(times, [0, 1500, 3000, 4500, 6000, 7500, 9000]);
}

#[test]
fn an_ingester_that_stirs_is_asked_at_once_also_where_its_last_answer_was_on_its_way() {
    let stirred = || Event::Stirred { from: peer("i") };
    let mut consumer = Consumer::new(settings(1));
    consumer.step(at(0), woke(&["i"], &["a"]));
    consumer.step(at(0), nothing("i"));
    assert_eq!(consumer.step(at(20), stirred())[0], ask(&["i"], 0)[0]);
    assert!(matches!(consumer.step(at(30), stirred())[..], [Action::WaitUntil(_)]), "it is asked already");
    assert_eq!(consumer.step(at(40), nothing("i"))[0], ask(&["i"], 0)[0]);
    assert_eq!(consumer.step(at(50), nothing("i")), wait(250), "as after any other answer");
    assert!(matches!(consumer.step(at(50), Event::Stirred { from: peer("x") })[..], [Action::WaitUntil(_)]));
}

#[test]
fn a_batch_is_committed_when_enough_different_stores_have_it() {
    let (mut consumer, piece, actions) = copying(2, &["a", "b", "c"]);
    assert_eq!(actions, [copy(std::slice::from_ref(&piece), &["a", "b"], 1)]);
    assert_eq!(consumer.step(at(5), copied(vec![has("a", 1), has("b", 2)])), [commit(&[piece], &[1, 2])]);
    assert_eq!(consumer.step(at(5), woke(&["i"], &["a", "b", "c"])), ask(&["i"], 1005), "no wait with a backlog");
}

#[test]
fn consumers_with_different_turns_begin_at_different_stores() {
    for (turn, to) in [(0, ["a", "b"]), (1, ["b", "c"]), (5, ["c", "a"])] {
        let mut consumer = Consumer::new(Settings { turn, ..settings(2) });
        consumer.step(at(0), woke(&["i"], &["a", "b", "c"]));
        let actions = consumer.step(at(0), Event::Offered(piece("i", 1, 100)));
        assert_eq!(actions, [copy(&[piece("i", 1, 100)], &to, 1)], "turn {turn}");
    }
}

#[test]
fn one_store_behind_two_addresses_is_one_copy() {
    let (mut consumer, piece, _) = copying(2, &["a", "b", "c"]);
    let actions = consumer.step(at(5), copied(vec![has("a", 1), has("b", 1)]));
    assert_eq!(actions, [copy(std::slice::from_ref(&piece), &["c"], 0)]);
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
    assert_eq!(actions, [copy(std::slice::from_ref(&piece), &["c"], 0)]);
    assert_eq!(consumer.step(at(6), copied(vec![has("c", 3)])), [commit(&[piece], &[1, 3])]);
}

#[test]
fn a_store_that_has_failed_is_passed_over_while_it_rests_and_a_full_one_longer() {
    for (answer, rest) in [(Answer::HasNot, 1000), (Answer::Full, 10_000)] {
        let (mut consumer, piece_1, actions) = copying(1, &["a", "b"]);
        assert_eq!(actions, [copy(std::slice::from_ref(&piece_1), &["a"], 1)]);
        consumer.step(at(0), Event::NotCopied { answers: vec![(peer("a"), answer)] });
        consumer.step(at(0), copied(vec![has("b", 2)]));
        for (now, to, spare) in [(rest - 1, "b", 1), (rest, "a", 1)] {
            consumer.step(at(now), woke(&["i"], &["a", "b"]));
            let next = piece("i", now as u128, 100);
            let actions = consumer.step(at(now), Event::Offered(next.clone()));
            assert_eq!(actions, [copy(&[next], &[to], spare)], "{now}");
            consumer.step(at(now), copied(vec![has(to, 3)]));
        }
    }
}

#[test]
fn where_no_store_has_room_smaller_batches_are_tried_within_seconds_until_one_fits() {
    let mut consumer = Consumer::new(settings(1));
    let pieces: Vec<Piece> = (1..=8).map(|id| piece("i", id, 13)).collect();
    let (mut now, mut sizes) = (0, Vec::new());
    for has_room in [false, false, true, true, true, true] {
        let mut batch = Vec::new();
        while batch.is_empty() {
            consumer.step(at(now), woke(&["i"], &["a"]));
            for piece in &pieces {
                if let [Action::Copy { pieces, .. }] = &consumer.step(at(now), Event::Offered(piece.clone()))[..] {
                    batch = pieces.clone();
                    break;
                }
            }
            now += 100;
        }
        sizes.push(batch.len());
        let full = Event::NotCopied { answers: vec![(peer("a"), Answer::Full)] };
        consumer.step(at(now), if has_room { copied(vec![has("a", 1)]) } else { full });
    }
    assert_eq!(sizes, [8, 2, 1, 1, 2, 4], "a quarter each time, and twice as much after each that was taken");
    assert!(now < 6_000, "{now} ms: a full store is asked again soon where nobody else is to be had");
}

#[test]
fn full_stores_are_tried_last_and_with_fewer_than_enough_awake_nothing_is_gathered() {
    let (mut consumer, piece_1, _) = copying(1, &["a", "b", "c"]);
    let not_copied = |store, answer| Event::NotCopied { answers: vec![(peer(store), answer)] };
    let actions = consumer.step(at(0), not_copied("a", Answer::Full));
    assert_eq!(actions, [copy(std::slice::from_ref(&piece_1), &["b"], 1)]);
    let actions = consumer.step(at(0), not_copied("b", Answer::HasNot));
    assert_eq!(actions, [copy(std::slice::from_ref(&piece_1), &["c"], 0)]);
    let actions = consumer.step(at(0), not_copied("c", Answer::HasNot));
    assert_eq!(actions, [Action::FailBack(vec![piece_1]), Action::WaitUntil(at(100))]);
    assert_eq!(consumer.step(at(100), woke(&["i"], &["a", "b", "c"])), wait(300), "all of them rest");

    assert_eq!(consumer.step(at(1000), woke(&["i"], &["a", "b", "c"]))[0], ask(&["i"], 0)[0]);
    let piece_2 = piece("i", 2, 100);
    let actions = consumer.step(at(1000), Event::Offered(piece_2.clone()));
    assert_eq!(actions, [copy(std::slice::from_ref(&piece_2), &["b"], 2)]);
    consumer.step(at(1000), not_copied("b", Answer::HasNot));
    let actions = consumer.step(at(1000), not_copied("c", Answer::HasNot));
    assert_eq!(actions, [copy(&[piece_2], &["a"], 0)], "the full one, rather than none");
}

#[test]
fn a_store_that_was_cut_short_is_asked_again() {
    let (mut consumer, piece, _) = copying(2, &["a", "b", "c"]);
    let answers = vec![(peer("a"), Answer::CutShort), (peer("b"), Answer::HasNot)];
    let actions = consumer.step(at(5), Event::NotCopied { answers });
    assert_eq!(actions, [copy(&[piece], &["c", "a"], 0)]);
}

#[test]
fn a_batch_is_failed_back_when_too_few_stores_answer() {
    let (mut consumer, piece, _) = copying(2, &["a", "b"]);
    let actions = consumer.step(at(5), copied(vec![has("a", 1), (peer("b"), Answer::HasNot)]));
    assert_eq!(actions, [Action::FailBack(vec![piece]), Action::WaitUntil(at(105))]);
    let (mut consumer, piece, _) = copying(1, &["a"]);
    let not_copied = Event::NotCopied { answers: vec![(peer("a"), Answer::HasNot)] };
    assert_eq!(consumer.step(at(5), not_copied)[0], Action::FailBack(vec![piece]));
}

#[test]
fn a_batch_is_given_back_after_some_rounds_however_many_stores_there_are() {
    let names: Vec<String> = (0..20).map(|n| format!("s{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut consumer, piece, mut actions) = copying(1, &names);
    for (round, name) in names.iter().take(MOST_ROUNDS).enumerate() {
        assert_eq!(actions, [copy(std::slice::from_ref(&piece), &[name], 19 - round)]);
        actions = consumer.step(at(0), Event::NotCopied { answers: vec![(peer(name), Answer::HasNot)] });
    }
    assert_eq!(actions[0], Action::FailBack(vec![piece]));
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
    assert_eq!(consumer.step(at(0), Event::Offered(good.clone())), [copy(&[bad.clone(), good.clone()], &["a"], 0)]);
    let actions = consumer.step(at(0), Event::Spoilt { piece: bad.clone(), fault: Fault::Unreadable });
    assert_eq!(actions, [Action::FailBack(vec![bad]), copy(std::slice::from_ref(&good), &["a"], 0)]);
    assert_eq!(consumer.step(at(0), copied(vec![has("a", 1)])), [commit(&[good], &[1])]);
}

#[test]
fn a_segment_that_was_interrupted_is_given_back_however_often() {
    let mut consumer = Consumer::new(settings(1));
    for _ in 0..5 {
        consumer.step(at(0), woke(&["i"], &["a"]));
        let piece = piece("i", 1, 100);
        consumer.step(at(0), Event::Offered(piece.clone()));
        let actions = consumer.step(at(0), Event::Spoilt { piece: piece.clone(), fault: Fault::Interrupted });
        assert_eq!(actions[0], Action::FailBack(vec![piece]));
    }
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
        assert_eq!(actions, [copy(&pieces[1..2], &["a"], 0)]);
        consumer.step(at(0), copied(vec![has("a", 1)]));
    }
}

#[test]
fn what_is_in_hand_is_given_back_at_the_end_and_what_is_offered_after_it_too() {
    let (mut consumer, piece_1, _) = copying(1, &["a"]);
    assert_eq!(consumer.step(at(9), Event::Stopping), [Action::FailBack(vec![piece_1])]);
    assert_eq!(consumer.step(at(9), Event::Stopping), []);
    let late = piece("i", 2, 10);
    assert_eq!(consumer.step(at(9), Event::Offered(late.clone()))[0], Action::FailBack(vec![late]));
}
