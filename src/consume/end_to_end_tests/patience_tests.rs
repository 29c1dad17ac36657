//! Stores that are slow, full or hang, and ingesters that hang: what they do to a consumer.

use super::*;

/// Little enough patience for a test, and as much where none can take a store's place.
const SHORT: (Patience, Patience) = {
    let (stall, receipt) = (Duration::from_millis(300), Duration::from_millis(300));
    (Patience { stall, rate: Bytes(1 << 20), receipt }, Patience::LAST)
};

#[test]
fn a_store_that_takes_nothing_is_replaced_and_left_alone_while_its_call_hangs() {
    let fake = Arc::new(Fake::with((0..8).map(|n| segment((n * 50_000)..(n * 50_000 + 30_000)))));
    let (one, two) = (store(), store());
    let hung = Hung::default();
    let stores: Vec<Arc<dyn StoreLink>> = vec![Arc::new(hung.clone()), Named::of("b", &one), Named::of("c", &two)];
    consume_from(&fake, vec![fake.clone()], stores, 2, SHORT);
    hung.release.raise();
    assert_eq!(lock(&fake.state).committed, 8);
    assert!(content(&one) == content(&two));
    assert_eq!(*lock(&hung.calls), 1, "one call, and one thread, however many batches there are");
}

#[test]
fn a_store_that_takes_all_and_never_answers_is_replaced() {
    let fake = Arc::new(Fake::with([segment(0..10)]));
    let (one, two) = (store(), store());
    let hung = Hung { takes_all: true, ..Hung::default() };
    let stores: Vec<Arc<dyn StoreLink>> = vec![Arc::new(hung.clone()), Named::of("b", &one), Named::of("c", &two)];
    consume_from(&fake, vec![fake.clone()], stores, 2, SHORT);
    hung.release.raise();
    assert_eq!(content(&one), segment(0..10));
    assert_eq!(content(&two), segment(0..10));
}

#[test]
fn a_full_store_is_asked_once_and_then_passed_over() {
    let fake = Arc::new(Fake::with((0..130).map(|n| segment(n * 10..n * 10 + 5))));
    let (one, two) = (store(), store());
    let full = Arc::new(Full::default());
    let stores = vec![full.clone() as Arc<dyn StoreLink>, Named::of("b", &one), Named::of("c", &two)];
    consume(&fake, stores, 2);
    assert_eq!(lock(&fake.state).committed, 130);
    assert!(content(&one) == content(&two));
    assert_eq!(*lock(&full.0), 1);
}

#[test]
fn with_fewer_than_enough_stores_nothing_is_left_in_hand() {
    let fake = Arc::new(Fake::with([segment(0..10)]));
    let one = store();
    // One of two stores fails: what was gathered is given back, and the other one keeps nothing of it.
    let given_back = Arc::new(GivenBack { fake: fake.clone(), back: Stop::default() });
    let stores: Vec<Arc<dyn StoreLink>> = vec![Arc::new(Broken), Named::of("b", &one)];
    let carrier = carrier(vec![given_back.clone()], stores, 2, (Patience::SPARED, Patience::LAST));
    let stop = Stop::default();
    both(
        || run(&carrier, &stop),
        || {
            assert!(given_back.back.wait(Duration::from_secs(60)));
            stop.raise();
        },
    );
    let state = lock(&fake.state);
    assert_eq!((state.committed, state.pending.len(), state.flushed.len()), (0, 0, 1));
}

#[test]
fn an_ingester_that_hangs_does_not_hold_up_the_others() {
    let fake = Arc::new(Fake::with((0..20).map(|n| segment(n * 10..n * 10 + 5))));
    let hung = Arc::new(HungIngester(Stop::default()));
    let store = store();
    // It hangs until all that the other one has was committed.
    let released = hung.clone();
    let carrier = carrier(vec![hung, fake.clone()], vec![store.clone()], 1, (Patience::SPARED, Patience::LAST));
    let stop = Stop::default();
    both(
        || run(&carrier, &stop),
        || {
            assert!(fake.done.wait(Duration::from_secs(60)));
            released.0.raise();
            stop.raise();
        },
    );
    assert_eq!(lock(&fake.state).committed, 20);
    assert_eq!(carrier.crew.join_all(Duration::from_secs(60)), Farewell::default());
}

#[test]
fn segments_are_renewed_while_the_only_store_stalls() {
    let fake = Arc::new(Fake::with([segment(0..10)]));
    let hung = Hung { takes_all: true, ..Hung::default() };
    let renewed = Arc::new(Renewed { fake: fake.clone(), release: hung.release.clone() });
    let mut carrier = carrier(vec![renewed], vec![Arc::new(hung)], 1, (Patience::SPARED, Patience::LAST));
    carrier.settings.renew_every = Duration::from_millis(5);
    let stop = Stop::default();
    both(
        || run(&carrier, &stop),
        || {
            assert!(fake.done.wait(Duration::from_secs(60)), "it was committed after it was renewed");
            stop.raise();
        },
    );
}

/// A store that hangs until it is let go; then it answers with what it took, if that was all.
#[derive(Clone, Default)]
struct Hung {
    release: Stop,
    calls: Arc<Mutex<usize>>,
    takes_all: bool,
}

impl StoreLink for Hung {
    fn name(&self) -> &str {
        "a"
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        *lock(&self.calls) += 1;
        let kept = store();
        let receipt = self.takes_all.then(|| StoreLink::replicate(&*kept, body));
        self.release.wait(Duration::from_secs(60));
        receipt.unwrap_or(Err(LinkError::Garbled { doing: "replicating to", peer: "a".into() }))
    }
}

/// A store without room, which counts how often it was asked.
#[derive(Default)]
struct Full(Mutex<usize>);

impl StoreLink for Full {
    fn name(&self) -> &str {
        "a"
    }

    fn replicate(&self, _body: &mut dyn Read) -> Result<Receipt, LinkError> {
        *lock(&self.0) += 1;
        Err(LinkError::Full { peer: "a".into() })
    }
}

/// An ingester that does not answer until it is let go, and then has nothing.
struct HungIngester(Stop);

impl IngestLink for HungIngester {
    fn name(&self) -> &str {
        "hung"
    }

    fn next(&self) -> Result<Option<Offer>, LinkError> {
        self.0.wait(Duration::from_secs(60));
        Ok(None)
    }

    fn read(&self, _id: Id) -> Result<Reading, LinkError> {
        Err(LinkError::Garbled { doing: "reading of", peer: "hung".into() })
    }

    fn commit(&self, _id: Id, _stores: &[DataId]) -> Result<(), LinkError> {
        Ok(())
    }

    fn failed(&self, _id: Id) -> Result<(), LinkError> {
        Ok(())
    }

    fn renew(&self, _id: Id) -> Result<(), LinkError> {
        Ok(())
    }

    fn set_aside(&self, _id: Id) -> Result<(), LinkError> {
        Ok(())
    }
}

/// The fake, behind one that says when something of it was given back.
struct GivenBack {
    fake: Arc<Fake>,
    back: Stop,
}

/// The fake, behind one that lets the store go when a segment is renewed.
struct Renewed {
    fake: Arc<Fake>,
    release: Stop,
}

/// Passes everything on to the fake, but for what it does besides when a segment is given back or renewed.
macro_rules! before_the_fake {
    ($name:ty, $failed:expr, $renew:expr) => {
        impl IngestLink for $name {
            fn name(&self) -> &str {
                "fake"
            }

            fn next(&self) -> Result<Option<Offer>, LinkError> {
                self.fake.next()
            }

            fn read(&self, id: Id) -> Result<Reading, LinkError> {
                self.fake.read(id)
            }

            fn commit(&self, id: Id, stores: &[DataId]) -> Result<(), LinkError> {
                self.fake.commit(id, stores)
            }

            fn failed(&self, id: Id) -> Result<(), LinkError> {
                let outcome = self.fake.failed(id);
                $failed(self);
                outcome
            }

            fn renew(&self, _id: Id) -> Result<(), LinkError> {
                $renew(self);
                Ok(())
            }

            fn set_aside(&self, id: Id) -> Result<(), LinkError> {
                self.fake.set_aside(id)
            }
        }
    };
}

before_the_fake!(GivenBack, |this: &GivenBack| this.back.raise(), |_| {});
before_the_fake!(Renewed, |_| {}, |this: &Renewed| this.release.raise());
