//! Bounded workers of several kinds, so that one kind of request cannot starve another.

use super::route::Lane;
use crate::world::crew::{Crew, LARGE_STACK, Stop, lock, wait_for};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How often an idle worker looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// How large a lane is.
#[derive(Clone, Copy, Debug)]
struct Size {
    name: &'static str,
    /// Workers at once.
    at_once: usize,
    /// Jobs that wait for one.
    waiting: usize,
    /// Whether the workers stay when there is nothing to do, so that none is wanting when threads are.
    stay: bool,
}

fn size(lane: Lane) -> Size {
    match lane {
        Lane::Short => Size { name: "http-short", at_once: 2, waiting: 256, stay: true },
        Lane::Query => Size { name: "http-query", at_once: 16, waiting: 64, stay: false },
        Lane::Part => Size { name: "http-part", at_once: 256, waiting: 64, stay: false },
        Lane::Stream => Size { name: "http-stream", at_once: 256, waiting: 0, stay: false },
        Lane::Upload => Size { name: "http-upload", at_once: 8, waiting: 16, stay: false },
    }
}

/// The workers of one kind.
pub(super) struct Workers<J> {
    size: Size,
    state: Mutex<State<J>>,
    came: Condvar,
    work: Arc<dyn Fn(J) + Send + Sync>,
    crew: Crew,
    stop: Stop,
}

struct State<J> {
    /// Jobs nobody has taken up yet.
    queue: VecDeque<J>,
    /// Workers that exist.
    workers: usize,
    /// Of them, those with a job.
    busy: usize,
}

impl<J: Send + 'static> Workers<J> {
    /// The workers of a lane; those that stay are started.
    pub fn start(
        lane: Lane,
        work: Arc<dyn Fn(J) + Send + Sync>,
        crew: Crew,
        stop: Stop,
    ) -> io::Result<Arc<Workers<J>>> {
        let size = size(lane);
        let state = Mutex::new(State { queue: VecDeque::new(), workers: 0, busy: 0 });
        let workers = Arc::new(Workers { size, state, came: Condvar::new(), work, crew, stop });
        if size.stay {
            for _ in 0..size.at_once {
                lock(&workers.state).workers += 1;
                workers.start_one()?;
            }
        }
        Ok(workers)
    }

    /// Whether all workers are taken and jobs wait for one.
    pub fn is_pressed(&self) -> bool {
        let state = lock(&self.state);
        state.busy >= self.size.at_once && !state.queue.is_empty()
    }

    /// Takes a job, or gives it back if the lane is full. Does not block.
    pub fn offer(self: &Arc<Self>, job: J) -> Result<(), J> {
        {
            let mut state = lock(&self.state);
            if self.stop.is_raised() || state.queue.len() + state.busy >= self.size.at_once + self.size.waiting {
                return Err(job);
            }
            state.queue.push_back(job);
            self.came.notify_one();
            // Workers without a job wait for one, or are just starting.
            if state.queue.len() + state.busy <= state.workers || state.workers >= self.size.at_once {
                return Ok(());
            }
            state.workers += 1;
        }
        if self.start_one().is_ok() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        state.workers -= 1;
        // The system gave no thread. Others will come to the job, or nobody will.
        match state.workers {
            0 => state.queue.pop_back().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    fn start_one(self: &Arc<Self>) -> io::Result<()> {
        let workers = self.clone();
        self.crew.start(self.size.name, LARGE_STACK, move || workers.work_on())
    }

    fn work_on(&self) {
        while let Some(job) = self.next() {
            (self.work)(job);
            lock(&self.state).busy -= 1;
        }
    }

    fn next(&self) -> Option<J> {
        let mut state = lock(&self.state);
        loop {
            let job = state.queue.pop_front();
            if job.is_some() || !self.size.stay || self.stop.is_raised() {
                match job {
                    Some(_) => state.busy += 1,
                    None => state.workers -= 1,
                }
                return job;
            }
            state = wait_for(&self.came, state, LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    type Gate = (Arc<Workers<u32>>, std::sync::mpsc::Sender<()>, Receiver<u32>, Crew, Stop);

    fn lane(lane: Lane) -> Gate {
        let (open, opened) = channel();
        let (done, results) = channel();
        let opened = Mutex::new(opened);
        let work = Arc::new(move |job: u32| {
            lock(&opened).recv().unwrap();
            done.send(job).unwrap();
        });
        let (crew, stop) = (Crew::default(), Stop::default());
        (Workers::start(lane, work, crew.clone(), stop.clone()).unwrap(), open, results, crew, stop)
    }

    #[test]
    fn a_lane_takes_as_much_as_it_has_room_for_and_gives_the_rest_back() {
        for (kind, room) in
            [(Lane::Short, 258), (Lane::Query, 80), (Lane::Part, 320), (Lane::Stream, 256), (Lane::Upload, 24)]
        {
            let (workers, open, results, crew, stop) = lane(kind);
            let mut taken = 0;
            for job in 0..1_000 {
                taken += u32::from(workers.offer(job).is_ok());
            }
            assert_eq!(taken, room, "{kind:?}");
            for _ in 0..taken {
                open.send(()).unwrap();
            }
            for _ in 0..taken {
                results.recv_timeout(Duration::from_secs(30)).unwrap();
            }
            stop.raise();
            assert!(crew.join_all(Duration::from_secs(30)).late.is_empty());
        }
    }
}
