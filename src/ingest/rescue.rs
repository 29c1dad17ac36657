//! What is whole in a damaged ingest file, copied into segments of its own before the file is set aside.
//!
//! ```text
//! X -> X.damaged | sync directory | copies X.damaged.N.copy, synced | copies -> ID.flushed | sync directory | X.damaged -> X.corrupt
//! ```
//!
//! A copy has the name that the file mostly had itself, so the file makes way first, under a name that says what is still
//! to be done. A start that finds that name goes on from there: copies without their final names are removed, those that
//! have it are known again by their content. So a crash at any point costs nothing, and neither does a lack of room.

use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::segment::handle::{DAMAGED, rename_surely};
use crate::segment::names::Names;
use crate::segment::recover::examine;
use crate::segment::sift::{Survey, sift, survey, tells_of_the_file};
use crate::segment::{Bounds, Segment, State};
use crate::world::fs::{File, FileSystem};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The extension of a copy that has not got its final name yet.
pub(super) const COPY: &str = ".copy";

/// What came of a damaged file.
pub(super) struct Rescued {
    /// What it holds.
    pub survey: Survey,
    /// The copies, on stable storage under their final names.
    pub segments: Vec<Arc<Segment>>,
}

/// A copy while it is written.
struct Draft {
    path: PathBuf,
    file: Arc<dyn File>,
}

/// Copies what is whole in `damaged`, which has that extension. After an error none of the copies without a final name is
/// left, and the same may be tried again.
pub(super) fn copy_whole(names: &Names, damaged: &Path) -> io::Result<Rescued> {
    debug_assert!(damaged.to_string_lossy().ends_with(DAMAGED));
    let (fs, since) = (names.fs(), names.since());
    let file = fs.open(damaged)?;
    let mut drafts: Vec<Option<Draft>> = Vec::new();
    let copied = write_drafts(&**fs, damaged, &*file, &mut drafts).and_then(|survey| {
        name_drafts(names, damaged, &survey, &mut drafts)?;
        names.sync(since)?;
        Ok(survey)
    });
    // Those that have got their names are not among them any more.
    for draft in drafts.into_iter().flatten() {
        if let Err(e) = fs.remove(&draft.path) {
            log::warn!("removing an unfinished copy, {}: {e}; the next start removes it", draft.path.display());
        }
    }
    let survey = copied?;
    let segment = |run: &Digest| Arc::new(Segment::new(fs.clone(), final_path(damaged, run.first), *run));
    Ok(Rescued { segments: survey.runs.iter().map(segment).collect(), survey })
}

fn final_path(damaged: &Path, first: Id) -> PathBuf {
    damaged.with_file_name(Bounds::From(first).file_name(State::Flushed))
}

fn write_drafts(
    fs: &dyn FileSystem,
    damaged: &Path,
    file: &dyn File,
    drafts: &mut Vec<Option<Draft>>,
) -> io::Result<Survey> {
    let there = copied_before(fs, damaged, file)?;
    // A name that cannot be looked at now is neither free nor taken: then nothing is copied yet.
    let unknown = Cell::new(None);
    let may_begin = |id: Id| match is_taken(fs, damaged, id) {
        _ if there.contains(&id) => true,
        Ok(taken) => !taken,
        Err(e) => {
            unknown.set(Some(e));
            false
        }
    };
    let mut keep = |run: usize, block: &[u8]| {
        if drafts.len() <= run {
            let first = crate::record::stored::id_at(block);
            let known = first.is_some_and(|id| there.contains(&id));
            drafts.push(if known { None } else { Some(draft(fs, damaged, run)?) });
        }
        match drafts.get(run) {
            Some(Some(draft)) => draft.file.append(block),
            _ => Ok(()),
        }
    };
    let survey = sift(file, &may_begin, &mut keep)?;
    unknown.take().map_or(Ok(()), Err)?;
    drafts.iter().flatten().try_for_each(|draft| draft.file.sync_data())?;
    Ok(survey)
}

/// The first ids of copies that an interrupted recovery has made already.
fn copied_before(fs: &dyn FileSystem, damaged: &Path, file: &dyn File) -> io::Result<BTreeSet<Id>> {
    let mut there = BTreeSet::new();
    for run in survey(file)?.runs {
        if is_same(fs, &final_path(damaged, run.first), &run)? {
            there.insert(run.first);
        }
    }
    Ok(there)
}

/// Whether a file holds exactly these records.
pub(super) fn is_same(fs: &dyn FileSystem, path: &Path, digest: &Digest) -> io::Result<bool> {
    match fs.open(path).and_then(|file| examine(&file)) {
        Ok(found) => Ok(found.fault.is_none() && found.digest == Some(*digest)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || tells_of_the_file(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a segment of this name is there in any state.
fn is_taken(fs: &dyn FileSystem, damaged: &Path, id: Id) -> io::Result<bool> {
    for state in [State::Active, State::Flushed, State::Pending] {
        match fs.open(&damaged.with_file_name(Bounds::From(id).file_name(state))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // It is there, whatever it is.
            Err(e) if tells_of_the_file(&e) => return Ok(true),
            Err(e) => return Err(e),
            Ok(_) => return Ok(true),
        }
    }
    Ok(false)
}

fn copy_path(damaged: &Path, run: usize) -> PathBuf {
    let name = damaged.file_name().unwrap_or_default().to_string_lossy();
    damaged.with_file_name(format!("{name}.{run}{COPY}"))
}

fn draft(fs: &dyn FileSystem, damaged: &Path, run: usize) -> io::Result<Draft> {
    let path = copy_path(damaged, run);
    let file = match fs.create_new(&path) {
        // Of an earlier try, which could not remove it: nobody relies on it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs.remove(&path).and_then(|()| fs.create_new(&path)),
        other => other,
    };
    Ok(Draft { file: file?, path })
}

fn name_drafts(names: &Names, damaged: &Path, survey: &Survey, drafts: &mut [Option<Draft>]) -> io::Result<()> {
    let fs = &**names.fs();
    for (number, (run, draft)) in survey.runs.iter().zip(drafts).enumerate() {
        let path = final_path(damaged, run.first);
        match draft {
            Some(draft) => rename_surely(fs, &draft.path, &path)?,
            // Named by an earlier try, whose sync may have failed: then no later one brings that name to the disk.
            None if names.have_failed() => {
                let copy = copy_path(damaged, number);
                rename_surely(fs, &path, &copy)?;
                rename_surely(fs, &copy, &path)?;
            }
            None => {}
        }
        *draft = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored;
    use crate::world::entropy::Dice;
    use crate::world::fs::memory::{Fault, MemoryFs, Misbehaviour};

    /// A damaged file of so many records, which are whole.
    fn damaged_with(records: u128) -> (MemoryFs, Names, PathBuf) {
        let (memory, dir) = (MemoryFs::new(), Path::new("d"));
        memory.create_dir_all(dir).expect("in memory");
        let damaged = dir.join(format!("{}.active{DAMAGED}", Id(1)));
        let mut bytes = Vec::new();
        (1..=records).for_each(|id| stored::write(&mut bytes, Id(id), b"text"));
        memory.create_new(&damaged).and_then(|file| file.append(&bytes)).expect("in memory");
        (memory.clone(), Names::new(Arc::new(memory), dir.into()), damaged)
    }

    #[test]
    fn no_record_is_left_out_because_descriptors_ran_out_meanwhile() {
        let mut refused = 0;
        for seed in 0..200 {
            let (memory, names, damaged) = damaged_with(3);
            let mut how = Misbehaviour { open_error: 4, ..Misbehaviour::none(Dice::new(seed)) };
            // And what could not be removed after one try is not in the way of the next.
            (how.write_error, how.remove_error) = (4, 2);
            memory.misbehave(Some(how));
            let copied = (0..1_000).find_map(|_| copy_whole(&names, &damaged).ok()).expect("at last");
            let records: Vec<u64> = copied.survey.runs.iter().map(|run| run.records).collect();
            assert_eq!(records, [3], "replay with seed {seed}");
            refused += memory.tally().faults().find(|(fault, _)| *fault == Fault::OpenError).map_or(0, |(_, n)| n);
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn a_copy_whose_name_a_failed_sync_has_left_in_memory_is_named_anew() {
        let (memory, names, damaged) = damaged_with(1);
        memory.fail_nth(crate::world::fs::memory::Op::SyncDir, 1, io::ErrorKind::Other);
        assert!(copy_whole(&names, &damaged).is_err(), "the copy has its name, but not on the disk");
        copy_whole(&names, &damaged).expect("nothing fails any more");
        let left = memory.harshest_image();
        assert!(left.open(&final_path(&damaged, Id(1))).is_ok(), "{:?}", left.list(Path::new("d")));
    }
}
