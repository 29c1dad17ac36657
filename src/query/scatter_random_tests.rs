//! Random copies on random nodes, of which some are silent or break off: the answer is held against the set of all records.

use super::*;
use crate::world::entropy::Dice;

#[test]
fn with_fewer_than_r_stores_down_an_answer_is_all_there_is() {
    let town = Town::new();
    let held: Vec<Held> = (0..5).map(|_| Held::default()).collect();
    let others: Vec<Peer> =
        (0..4).map(|n| town.node(if n < 3 { IngestStore } else { Store }, n as u128, 0, &held[n])).collect();
    let (me, cluster) = town.asked(&held[4], 0, &[], &[]);
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let replicas = 1 + dice.below(4);
        let mut tiers: Vec<(Vec<u128>, Vec<u128>)> = vec![Default::default(); 5];
        for id in 0..dice.below(300).into() {
            let mut order: Vec<usize> = (0..5).collect();
            dice.shuffle(&mut order);
            // On its way to stores, or taken over by R of them, or both for a moment.
            let state = dice.below(6);
            if state < 3 {
                let ingesters = [0, 1, 2, 4];
                tiers[ingesters[dice.below(4) as usize]].0.push(id);
            }
            if state > 1 {
                order.iter().take(replicas as usize).for_each(|n| tiers[*n].1.push(id));
            }
        }
        held.iter().zip(&tiers).for_each(|(held, (ingest, store))| held.hold(ingest, store));
        let mut down: Vec<usize> = (0..4).collect();
        dice.shuffle(&mut down);
        down.truncate(dice.below(replicas) as usize);
        let (mut alive, mut silent) = (Vec::new(), Vec::new());
        for (n, other) in others.iter().enumerate() {
            let mut other = other.clone();
            if down.contains(&n) {
                // Its ingest tier is another process's by now: only its store is missed.
                let heir = Peer { meta: Meta { kind: Ingest, store: None, ..other.meta.clone() }, ..other.clone() };
                alive.extend(heir.meta.ingest.is_some().then_some(heir));
                other = nobody(Store, n as u128, 0);
                other.node = NodeId(500 + n as u128);
                if dice.one_in(2) { &mut silent } else { &mut alive }.push(other);
            } else {
                alive.push(other);
            }
        }
        let mut me = me.clone();
        me.meta.replicas = replicas as u8;
        *lock(&cluster.0) = Arc::new(View { me: me.clone(), others: alive, silent });
        let mut expected: Vec<u128> =
            tiers.iter().flat_map(|(ingest, store)| ingest.iter().chain(store)).copied().collect();
        expected.sort_unstable();
        expected.dedup();
        let descending = dice.one_in(2);
        if descending {
            expected.reverse();
        }
        let got = ask(&me, if descending { "&order=desc" } else { "" });
        assert_eq!((got.status, got.ended), (200, true), "replay with seed {seed}: {got:?}");
        assert_eq!(got.ids, expected, "replay with seed {seed}");
    }
}

/// What a store that breaks off may say: its records, and where it does.
type Cut = Arc<Mutex<(Vec<u128>, Option<usize>)>>;

#[test]
fn stores_that_break_off_anywhere_cost_no_record_while_they_are_fewer_than_r() {
    let town = Town::new();
    let cuts: Vec<Cut> = (0..4).map(|_| Cut::default()).collect();
    let others: Vec<Peer> =
        cuts.iter().zip(1..).map(|(cut, n)| town.fake(Store, n, 0, serve_cut(cut.clone()))).collect();
    let (me, cluster) = town.asked(&Held::default(), 0, &[], &[]);
    let mut broken_off = 0;
    for seed in 0..80 {
        let mut dice = Dice::new(seed);
        let replicas = 1 + dice.below(4);
        let mut stores: Vec<Vec<u128>> = vec![Vec::new(); 4];
        let last = dice.below(400).into();
        for id in 0..last {
            let mut order: Vec<usize> = (0..4).collect();
            dice.shuffle(&mut order);
            order.iter().take(replicas as usize).for_each(|n| stores[*n].push(id));
        }
        let breaking = dice.below(5) as usize;
        for (n, (cut, ids)) in cuts.iter().zip(stores).enumerate() {
            let len = content(&ids).len() as u64;
            *lock(cut) = (ids, (n < breaking).then(|| dice.below(len + 1) as usize));
        }
        let mut me = me.clone();
        me.meta.replicas = replicas as u8;
        *lock(&cluster.0) = Arc::new(View { me: me.clone(), others: others.clone(), silent: vec![] });
        let descending = dice.one_in(2);
        let mut expected = ids(0..last);
        if descending {
            expected.reverse();
        }
        let got = ask(&me, if descending { "&order=desc" } else { "" });
        assert_eq!(got.status, 200, "replay with seed {seed}");
        assert_eq!(got.ended, breaking < replicas as usize, "replay with seed {seed}: {breaking} of R = {replicas}");
        if got.ended {
            assert_eq!(got.ids, expected, "replay with seed {seed}");
        }
        broken_off += u32::from(!got.ended);
    }
    assert!(broken_off > 10, "too few seeds break too much");
}

fn serve_cut(cut: Cut) -> impl Fn(&Request, Reply) -> io::Result<()> + Send + Sync + 'static {
    move |request, reply| {
        let (mut ids, cut) = lock(&cut).clone();
        if request.param("order") == Some("desc") {
            ids.reverse();
        }
        let bytes = content(&ids);
        answer_with(reply, &bytes[..cut.unwrap_or(bytes.len())], cut.is_none())
    }
}
