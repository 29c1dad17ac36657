use super::*;

const NODE: NodeId = NodeId(7);

fn at(secs: u64) -> Monotonic {
    Monotonic(Duration::from_secs(secs))
}

fn one(needed: u32) -> Suspicions {
    let mut all = Suspicions::default();
    let spans = (Duration::from_secs(5), Duration::from_secs(30));
    all.put(NODE, Suspicion::new(at(100), 1, 11, spans, needed));
    all
}

#[test]
fn a_suspicion_shortens_with_each_other_node_that_confirms_it_and_no_further() {
    let mut all = one(2);
    assert_eq!(all.next(), Some(at(130)));
    assert!(!all.confirm(NODE, 11), "who suspects already confirms nothing");
    assert!(all.confirm(NODE, 12));
    let after_one = all.next().unwrap();
    assert!(after_one > at(105) && after_one < at(120), "{after_one:?}");
    assert!(all.confirm(NODE, 13));
    assert_eq!(all.next(), Some(at(105)));
    assert!(!all.confirm(NODE, 14));
    assert!(!all.confirm(NodeId(8), 14), "nobody is suspected by confirming");
}

#[test]
fn where_nobody_can_confirm_it_a_suspicion_is_short_from_the_beginning() {
    let mut all = one(0);
    assert_eq!(all.next(), Some(at(105)));
    assert!(!all.confirm(NODE, 12));
}

#[test]
fn suspicions_come_due_in_order_and_are_taken_once() {
    let mut all = one(0);
    let spans = (Duration::from_secs(2), Duration::from_secs(2));
    all.put(NodeId(8), Suspicion::new(at(100), 1, 11, spans, 0));
    assert!(all.take_due(at(101)).is_none());
    assert_eq!(all.take_due(at(110)).map(|(node, _)| node), Some(NodeId(8)));
    assert_eq!(all.take_due(at(110)).map(|(node, _)| node), Some(NODE));
    assert!(all.take_due(at(110)).is_none() && all.next().is_none());
}

#[test]
fn time_in_which_nothing_was_heard_does_not_count() {
    let mut all = one(2);
    all.delay_all(Duration::from_secs(40));
    assert_eq!(all.next(), Some(at(170)));
    all.confirm(NODE, 12);
    all.confirm(NODE, 13);
    assert_eq!(all.next(), Some(at(145)));
}

#[test]
fn a_suspect_that_answers_the_last_questions_gets_its_time_once_more() {
    let mut all = one(0);
    all.answered(at(104), NODE);
    assert_eq!(all.next(), Some(at(105)), "before they are put an answer says nothing new");
    let (node, mut suspicion) = all.take_due(at(105)).unwrap();
    suspicion.asked = 1;
    all.postpone(node, suspicion, at(106));
    all.answered(at(106), NODE);
    assert_eq!(all.next(), Some(at(111)));
}
