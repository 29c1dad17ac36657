use super::*;

/// Ten bytes for each entry, and its number to begin with.
fn write(body: &mut Vec<u8>, node: NodeId, _: bool) -> bool {
    body.push(node.0 as u8);
    body.resize(body.len() + 9, 0);
    true
}

fn told(news: &mut News, budget: usize, limit: u32) -> Vec<u8> {
    let mut body = Vec::new();
    news.fill(&mut body, budget, limit, write);
    body.chunks(10).map(|entry| entry[0]).collect()
}

#[test]
fn what_was_sent_least_goes_first_and_among_that_the_newest() {
    let mut news = News::default();
    (1..=3).for_each(|node| news.add(NodeId(node), false));
    assert_eq!(told(&mut news, 30, 9), [3, 2]);
    assert_eq!(told(&mut news, 20, 9), [1]);
    news.add(NodeId(4), false);
    assert_eq!(told(&mut news, 100, 9), [4, 3, 2, 1]);
}

#[test]
fn an_entry_is_sent_so_often_and_no_more_unless_there_is_new_news() {
    let mut news = News::default();
    news.add(NodeId(1), false);
    (0..3).for_each(|_| assert_eq!(told(&mut news, 100, 3), [1]));
    assert!(told(&mut news, 100, 3).is_empty() && news.is_empty());
    news.add(NodeId(1), false);
    news.add(NodeId(1), false);
    assert_eq!(told(&mut news, 100, 3), [1]);
}

#[test]
fn what_is_not_known_any_more_is_dropped_and_what_does_not_fit_stays() {
    let mut news = News::default();
    news.add(NodeId(1), false);
    news.add(NodeId(2), false);
    let mut body = Vec::new();
    news.fill(&mut body, 100, 9, |body, node, whole| node == NodeId(2) && write(body, node, whole));
    assert_eq!(told(&mut news, 100, 9), [2]);
    news.add(NodeId(3), true);
    let mut body = Vec::new();
    news.fill(&mut body, 25, 9, |body, node, whole| {
        body.resize(body.len() + if whole { 80 } else { 10 }, node.0 as u8);
        true
    });
    assert_eq!(body, [2; 10], "a shorter one takes the place of one that is too long");
    assert_eq!(told(&mut news, 30, 9)[0], 3);
}
