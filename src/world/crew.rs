//! The one place where threads are started, and the one way in which they are stopped.
//!
//! Every thread has a name and belongs to a [`Crew`], which counts it until it has ended; [`Crew::join_all`] waits for all
//! of them. A [`Stop`] is raised once; whoever waits, waits on it too.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Locks, also after another thread has panicked while it held the lock.
///
/// Our critical sections leave their value whole at every point where they can panic; the panic itself is counted and
/// reported by the [`Crew`], so a second one in every other thread would only hide it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on a condition variable for at most `span`, with the same answer to poison as [`lock`].
pub fn wait_for<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, span: Duration) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, span).unwrap_or_else(PoisonError::into_inner).0
}

/// A flag that is raised once and can be waited for. Clones are the same flag.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<(Mutex<Flag>, Condvar)>,
}

#[derive(Default)]
struct Flag {
    raised: bool,
    /// Who is to be woken.
    sleepers: Vec<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("raised", &self.is_raised()).finish_non_exhaustive()
    }
}

impl Stop {
    /// Raises the flag and wakes all who wait.
    pub fn raise(&self) {
        let sleepers = {
            let mut flag = lock(&self.shared.0);
            flag.raised = true;
            std::mem::take(&mut flag.sleepers)
        };
        self.shared.1.notify_all();
        sleepers.into_iter().for_each(|wake| wake());
    }

    /// Has `wake` called when the flag is raised, or now if it was. For threads that live as long as the flag and wait for
    /// something else, so that they need not look at it again and again: an idle server sleeps. Whoever waits on a condition
    /// looks at the flag under the same lock, and `wake` takes that lock before it notifies; see [`Stop::wakes`].
    pub fn on_raise(&self, wake: impl FnOnce() + Send + 'static) {
        let mut flag = lock(&self.shared.0);
        if !flag.raised {
            return flag.sleepers.push(Box::new(wake));
        }
        drop(flag);
        wake();
    }

    /// Wakes those who wait on a condition of `owner` when the flag is raised, as long as the owner lives.
    pub fn wakes<O: Send + Sync + 'static, T: 'static>(&self, owner: &Arc<O>, on: fn(&O) -> (&Mutex<T>, &Condvar)) {
        let owner = Arc::downgrade(owner);
        self.on_raise(move || {
            if let Some(owner) = owner.upgrade() {
                let (mutex, condvar) = on(&owner);
                // Whoever has looked at the flag before it was raised waits by now, or waits for this lock.
                drop(lock(mutex));
                condvar.notify_all();
            }
        });
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        lock(&self.shared.0).raised
    }

    /// Waits until the flag is raised, but not longer than `span`. Gives whether it was raised.
    pub fn wait(&self, span: Duration) -> bool {
        let deadline = Instant::now() + span;
        let mut flag = lock(&self.shared.0);
        while !flag.raised {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            flag = wait_for(&self.shared.1, flag, left);
        }
        true
    }
}

/// The stack of a thread that holds no large buffers in its frames. Connections are counted in thousands.
pub const SMALL_STACK: usize = 128 << 10;

/// The stack of a thread that runs library code we do not bound: HTTP, regex compilation, sorting.
pub const LARGE_STACK: usize = 2 << 20;

/// The threads of one owner.
#[derive(Clone, Default)]
pub struct Crew {
    roster: Arc<Roster>,
}

#[derive(Default)]
struct Roster {
    state: Mutex<RosterState>,
    changed: Condvar,
}

#[derive(Default)]
struct RosterState {
    /// Names of those who are at work, by number of start.
    at_work: std::collections::BTreeMap<u64, String>,
    started: u64,
    panicked: Vec<String>,
}

/// What was found when a crew was waited for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// Threads that ended by a panic, in the order in which they ended.
    pub panicked: Vec<String>,
    /// Threads that were still at work at the deadline, newest first.
    pub late: Vec<String>,
}

impl Crew {
    /// Starts a thread. An error means that the system gave none (`TasksMax`, memory): nothing has begun.
    pub fn start(&self, name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let number = {
            let mut state = lock(&self.roster.state);
            state.started += 1;
            let number = state.started;
            state.at_work.insert(number, name.to_string());
            number
        };
        let leave = Leave { roster: self.roster.clone(), number };
        // The guard moves into the thread. If there is none, the closure is dropped here, and the guard with it.
        std::thread::Builder::new().name(name.chars().take(15).collect()).stack_size(stack).spawn(move || {
            let _leave = leave;
            work();
        })?;
        Ok(())
    }

    /// How many are at work.
    pub fn len(&self) -> usize {
        lock(&self.roster.state).at_work.len()
    }

    /// Whether none is at work.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many have ended by a panic so far.
    pub fn panics(&self) -> usize {
        lock(&self.roster.state).panicked.len()
    }

    /// Waits until fewer than `limit` are at work or the flag is raised. Gives whether there is room.
    pub fn wait_for_room(&self, limit: usize, stop: &Stop) -> bool {
        let mut state = lock(&self.roster.state);
        while state.at_work.len() >= limit {
            if stop.is_raised() {
                return false;
            }
            state = wait_for(&self.roster.changed, state, Duration::from_millis(200));
        }
        true
    }

    /// Waits until all have ended, at most for `span`.
    pub fn join_all(&self, span: Duration) -> Farewell {
        let deadline = Instant::now() + span;
        let mut state = lock(&self.roster.state);
        while !state.at_work.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = wait_for(&self.roster.changed, state, left);
        }
        Farewell { panicked: state.panicked.clone(), late: state.at_work.values().rev().cloned().collect() }
    }
}

/// Strikes a thread off the roster when it ends, however it ends.
struct Leave {
    roster: Arc<Roster>,
    number: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut state = lock(&self.roster.state);
        let name = state.at_work.remove(&self.number);
        if std::thread::panicking() {
            state.panicked.extend(name);
        }
        self.roster.changed.notify_all();
    }
}

/// Lets another thread that is ready run first.
pub fn give_way() {
    std::thread::yield_now();
}

/// How much a thread lets others have when there is more to do than processors: Linux weighs each step at about 1.25 less
/// (`sched(7)`, the nice value). With an idle processor it is as fast as any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Somebody waits for it, but what comes in must not wait for it: a third of a thread's weight.
    Answering,
    /// Nobody waits for it: a tenth.
    Housekeeping,
}

/// Makes the calling thread this patient, until it ends. Where the system refuses, it stays as it was.
pub fn be_patient(patience: Patience) {
    let nice = match patience {
        Patience::Answering => 5,
        Patience::Housekeeping => 10,
    };
    // Linux takes the process's own number for the calling thread alone.
    if let Err(e) = rustix::process::setpriority_process(None, nice) {
        log::debug!("a thread keeps its priority: {e}");
    }
}

/// How many threads can run at once on this machine; at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does the same for every item, at most `at_once` at a time, and gives the results in the order of the items.
///
/// The calling thread works too: where the system gives no other, it does all of it. A panic is passed on.
pub fn each<T: Sync, R: Send>(items: &[T], at_once: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let take_turns = || {
        while let Some((n, item)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, items.get(n)?))) {
            let result = work(item);
            lock(&done).push((n, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..at_once.min(items.len()) {
            if std::thread::Builder::new().stack_size(LARGE_STACK).spawn_scoped(scope, take_turns).is_err() {
                break;
            }
        }
        take_turns();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs both at once and gives both results; a panic on either side is passed on, and having no thread is one. For work
/// that borrows, in tests: servers use [`each`] or a [`Crew`].
pub fn both<A: Send, B: Send>(left: impl FnOnce() -> A + Send, right: impl FnOnce() -> B + Send) -> (A, B) {
    std::thread::scope(|scope| {
        let right = scope.spawn(right);
        let left = left();
        match right.join() {
            Ok(right) => (left, right),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Does `work` here while `watch` runs in a thread of its own, to which the flag says when the work has ended, be it by a
/// panic. Where the system gives no thread, the work is done unwatched.
pub fn watched<A>(watch: impl FnOnce(&Stop) + Send, work: impl FnOnce() -> A) -> A {
    struct RaiseAtEnd<'a>(&'a Stop);
    impl Drop for RaiseAtEnd<'_> {
        fn drop(&mut self) {
            self.0.raise();
        }
    }
    let over = Stop::default();
    std::thread::scope(|scope| {
        let watcher = std::thread::Builder::new().name("watcher".into()).stack_size(SMALL_STACK);
        let seen = over.clone();
        if let Err(e) = watcher.spawn_scoped(scope, move || watch(&seen)) {
            log::warn!("no thread to watch over a piece of work: {e}");
        }
        let _raise = RaiseAtEnd(&over);
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_told_when_the_work_ends_however_it_ends() {
        let (seen, watch) = std::sync::mpsc::channel();
        let panicked = std::panic::catch_unwind(|| {
            watched(
                move |over| seen.send(over.wait(Duration::from_secs(60))).expect("listened to"),
                || panic!("as the test wants"),
            )
        });
        assert!(panicked.is_err() && watch.recv() == Ok(true));
        assert_eq!(watched(|_| {}, || 7), 7);
    }

    #[test]
    fn a_crew_names_those_who_panicked_and_those_who_are_late() {
        let (crew, stop) = (Crew::default(), Stop::default());
        crew.start("breaks", SMALL_STACK, || panic!("as the test wants")).expect("a thread");
        let waiting = stop.clone();
        crew.start("waits", SMALL_STACK, move || while !waiting.wait(Duration::from_secs(60)) {}).expect("a thread");
        assert!(crew.wait_for_room(2, &stop));
        let farewell = crew.join_all(Duration::ZERO);
        assert_eq!(farewell, Farewell { panicked: vec!["breaks".into()], late: vec!["waits".into()] });
        stop.raise();
        assert_eq!(crew.join_all(Duration::from_secs(60)).late, Vec::<String>::new());
    }

    #[test]
    fn each_gives_the_results_in_the_order_of_the_items_and_works_at_several_at_once() {
        assert_eq!(each(&[3, 1, 2], 2, |n| n * 10), [30, 10, 20]);
        assert!(each(&[0u8; 0], 2, |n| *n).is_empty());
        let together = std::sync::Barrier::new(2);
        each(&[(); 2], 2, |()| together.wait());
    }

    #[test]
    fn a_stop_wakes_who_waits_on_a_condition_and_whoever_comes_too_late_at_once() {
        let (stop, crew) = (Stop::default(), Crew::default());
        let place: Arc<(Mutex<()>, Condvar)> = Arc::default();
        stop.wakes(&place, |(mutex, condvar)| (mutex, condvar));
        for _ in 0..8 {
            let (stop, place) = (stop.clone(), place.clone());
            let waits = move || {
                let mut held = lock(&place.0);
                while !stop.is_raised() {
                    held = wait_for(&place.1, held, Duration::from_secs(600));
                }
            };
            crew.start("waits", SMALL_STACK, waits).expect("a thread");
        }
        stop.raise();
        assert_eq!(crew.join_all(Duration::from_secs(60)), Farewell::default());
        let (told, hears) = std::sync::mpsc::channel();
        stop.on_raise(move || told.send(()).expect("heard"));
        assert_eq!(hears.try_recv(), Ok(()));
    }

    #[test]
    fn a_stop_that_is_raised_wakes_at_once_and_one_that_is_not_times_out() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        stop.raise();
        assert!(stop.wait(Duration::from_secs(60)));
    }
}
