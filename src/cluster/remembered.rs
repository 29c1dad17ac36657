//! The table of claims as it is kept on disk, so that a node that starts knows whose records are missed and whom to call.
//!
//! The file `members` in the data directory is text that a person can read: a first line with the form's version and this
//! node's start number, then a line of `key=value` words for each node. States are the last that were known; incarnations
//! are not kept: what is remembered has incarnation 0, and any word of a node itself overrules it. Words with unknown
//! keys are skipped, so a later version may add some; a file with a line that cannot be read is set aside, its other lines
//! are kept.
//!
//! Files are never replaced: a new table is written as `members.new` and synced before the old one is removed, and takes
//! its name then. So at every moment one of the two is there whole, and `members` is the one to read if both are.
//! Bounds: [`MAX_LINES`] nodes, [`LONGEST`] bytes; what is beyond is not read.

use super::claim::{Claim, DataId, Meta, NodeId, PeerKind, State};
use super::members::MEMBERS_MAX;
use crate::segment::handle::set_aside;
use crate::segment::sift::tells_of_the_file;
use crate::unit::Bytes;
use crate::world::fs::{FileSystem, read_full_at};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

/// The table.
const NAME: &str = "members";
/// The table that is to follow it.
const NEXT: &str = "members.new";
const FIRST_WORDS: &str = "oklog members 1 start=";

/// What follows from a table that is not whole.
const UNTIL_HEARD: &str = "others are not missed until they are heard of: give -peer the address of one that lives";

/// The most nodes that are remembered: all that a table may hold, and this one.
pub const MAX_LINES: usize = MEMBERS_MAX + 1;

/// The longest file that is read whole, in bytes. A line of ours has less than 400.
pub const LONGEST: u64 = 8 << 20;

/// Whether a file of this name in a data directory belongs here.
pub fn is_ours(name: &str) -> bool {
    name == NAME || name == NEXT
}

/// What a former process knew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    /// The highest start number so far; 0 if there was none.
    pub start: u64,
    /// Who was known, with incarnation 0.
    pub claims: Vec<Claim>,
}

impl Remembered {
    /// The number of the start that follows: the time of day in Unix milliseconds, or one more than the last number if
    /// the clock has been set back since.
    pub fn next_start(&self, unix_ms: u64) -> u64 {
        unix_ms.max(self.start.saturating_add(1))
    }

    /// Reads the table in a directory. None there is an empty one. Of one that is damaged the lines that can be read are
    /// kept, and the file is set aside as `.corrupt`; so is one that cannot be read.
    pub fn load(fs: &dyn FileSystem, dir: &Path) -> io::Result<Remembered> {
        for name in [NAME, NEXT] {
            let path = dir.join(name);
            let (remembered, damaged) = match Remembered::read(fs, &path) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) if tells_of_the_file(&e) => {
                    let aside = set_aside(fs, &path)?;
                    log::error!(
                        "{}: it cannot be read: {e}: set aside as {}; {UNTIL_HEARD}",
                        path.display(),
                        aside.display()
                    );
                    continue;
                }
                Err(e) => return Err(e),
            };
            if let Some(first) = damaged.first() {
                let aside = remembered.replace_damaged(fs, dir, name)?;
                let (count, nodes) = (damaged.len(), remembered.claims.len());
                log::error!(
                    "{}: {count} lines cannot be read, the first is line {first}, perhaps another version wrote them: set \
                     aside as {}; the {nodes} nodes in the others are kept, {UNTIL_HEARD}",
                    path.display(),
                    aside.display()
                );
            }
            return Ok(remembered);
        }
        Ok(Remembered::default())
    }

    /// What a file says, and the numbers of the lines that it does not say it in.
    fn read(fs: &dyn FileSystem, path: &Path) -> io::Result<(Remembered, Vec<usize>)> {
        let file = fs.open(path)?;
        let found = file.size()?.0;
        let mut content = vec![0; usize::try_from(found.min(LONGEST)).unwrap_or_default()];
        let length = read_full_at(&*file, &mut content, Bytes(0))?;
        content.truncate(length);
        let (remembered, mut damaged) = Remembered::parse(&String::from_utf8_lossy(&content));
        if found > LONGEST || content.is_empty() {
            damaged.push(content.iter().filter(|byte| **byte == b'\n').count() + 1);
        }
        Ok((remembered, damaged))
    }

    /// Sets a damaged table aside and puts this one in its place. At every moment one of the two is there whole.
    fn replace_damaged(&self, fs: &dyn FileSystem, dir: &Path, name: &str) -> io::Result<PathBuf> {
        let (path, next) = (dir.join(NAME), dir.join(NEXT));
        if name == NEXT {
            fs.rename_new(&next, &path)?;
        }
        remove_if_there(fs, &next)?;
        let file = fs.create_new(&next)?;
        file.append(self.text().as_bytes())?;
        file.sync_data()?;
        fs.sync_dir(dir)?;
        let aside = set_aside(fs, &path)?;
        fs.rename_new(&next, &path)?;
        fs.sync_dir(dir)?;
        Ok(aside)
    }

    /// Writes the table into a directory, in place of the one that is there.
    pub fn save(&self, fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
        let (path, next) = (dir.join(NAME), dir.join(NEXT));
        if !is_there(fs, &path)? && is_there(fs, &next)? {
            // A crash came before the last table got its name: it is the only one.
            fs.rename_new(&next, &path)?;
            fs.sync_dir(dir)?;
        }
        remove_if_there(fs, &next)?;
        let file = fs.create_new(&next)?;
        file.append(self.text().as_bytes())?;
        file.sync_data()?;
        fs.sync_dir(dir)?;
        remove_if_there(fs, &path)?;
        fs.rename_new(&next, &path)?;
        fs.sync_dir(dir)
    }

    /// The file's content.
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_WORDS}{}\n", self.start);
        for claim in self.claims.iter().take(MAX_LINES) {
            let Meta { kind, gossip, api, store, ingest, replicas, start } = &claim.meta;
            let (node, kind, state) = (claim.node, kind.name(), name_of(claim.state));
            let id = |id: &Option<DataId>| id.map_or("-".into(), |id| id.to_string());
            let (store, ingest) = (id(store), id(ingest));
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "api={api} state={state} kind={kind} gossip={gossip} node={node} store={store} ingest={ingest} \
                 replicas={replicas} start={start}"
            );
        }
        text
    }

    /// Reads what [`Remembered::text`] has written, and gives the numbers of the lines it could not read, from 1.
    fn parse(text: &str) -> (Remembered, Vec<usize>) {
        let (mut remembered, mut damaged) = (Remembered::default(), Vec::new());
        for (at, line) in text.lines().enumerate().take(MAX_LINES + 1) {
            if at == 0 {
                match line.strip_prefix(FIRST_WORDS).and_then(|number| number.parse().ok()) {
                    Some(start) => remembered.start = start,
                    None => damaged.push(1),
                }
            } else {
                match claim_in(line) {
                    Some(claim) => remembered.claims.push(claim),
                    None => damaged.push(at + 1),
                }
            }
        }
        (remembered, damaged)
    }
}

/// A table that is to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsaved {
    /// Which one it is: greater ones are later ones.
    pub version: u64,
    /// What is in it.
    pub remembered: Remembered,
}

/// What was written last.
#[derive(Default, Debug)]
pub struct Keeper {
    version: u64,
    saved: Option<String>,
}

impl Keeper {
    /// The version that was looked at last; 0 if none was.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Writes a table if it differs from what was written last. One that cannot be written counts as not looked at.
    pub fn save(&mut self, unsaved: Unsaved, fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
        let Unsaved { version, remembered } = unsaved;
        let text = remembered.text();
        if fs.keeps() && self.saved.as_ref() != Some(&text) {
            remembered.save(fs, dir)?;
            self.saved = Some(text);
        }
        self.version = version;
        Ok(())
    }
}

fn is_there(fs: &dyn FileSystem, path: &Path) -> io::Result<bool> {
    match fs.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true),
    }
}

fn remove_if_there(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    match fs.remove(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The word for a state. A suspicion is nothing to remember: it ends within seconds.
fn name_of(state: State) -> &'static str {
    match state {
        State::Alive | State::Suspect => "alive",
        State::Dead => "dead",
        State::Left => "left",
        State::Forgotten => "forgotten",
    }
}

fn claim_in(line: &str) -> Option<Claim> {
    let words: BTreeMap<&str, &str> = line.split_ascii_whitespace().filter_map(|word| word.split_once('=')).collect();
    let word = |key: &str| words.get(key).copied();
    let hex = |text: &str| (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    let id = |key| match word(key)? {
        "-" => Some(None),
        text => hex(text).map(|id| Some(DataId(id))),
    };
    let kinds = [PeerKind::Ingest, PeerKind::Store, PeerKind::IngestStore];
    let states = [State::Alive, State::Dead, State::Left, State::Forgotten];
    let (kind, state) = (word("kind")?, word("state")?);
    let meta = Meta {
        kind: kinds.into_iter().find(|known| known.name() == kind)?,
        gossip: word("gossip")?.parse().ok()?,
        api: word("api")?.parse().ok()?,
        store: id("store")?,
        ingest: id("ingest")?,
        replicas: word("replicas")?.parse().ok()?,
        start: word("start")?.parse().ok()?,
    };
    let state = states.into_iter().find(|known| name_of(*known) == state)?;
    Some(Claim { node: NodeId(hex(word("node")?)?), meta, incarnation: 0, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;
    use crate::world::fs::memory::MemoryFs;

    fn claim(n: u128, state: State) -> Claim {
        let address = |port| std::net::SocketAddr::from(([10, 0, 0, n as u8], port));
        let (kind, store) =
            if n.is_multiple_of(2) { (PeerKind::Store, Some(DataId(n))) } else { (PeerKind::Ingest, None) };
        let ingest = store.is_none().then_some(DataId(n << 64));
        let meta = Meta { kind, gossip: address(7659), api: address(7650), store, ingest, replicas: 2, start: 7 };
        Claim { node: NodeId(n), meta, incarnation: 0, state }
    }

    fn table(start: u64, nodes: u128) -> Remembered {
        let states = [State::Alive, State::Dead, State::Left, State::Forgotten];
        Remembered { start, claims: (1..=nodes).map(|n| claim(n, states[n as usize % 4])).collect() }
    }

    #[test]
    fn a_table_reads_back_as_itself_and_one_that_is_not_there_is_empty() {
        let (fs, dir) = (MemoryFs::default(), Path::new("/d"));
        fs.create_dir_all(dir).unwrap();
        assert_eq!(Remembered::load(&fs, dir).unwrap(), Remembered::default());
        for table in [table(5, 9), table(6, 0), table(7, 20)] {
            table.save(&fs, dir).unwrap();
            assert_eq!(Remembered::load(&fs, dir).unwrap(), table);
        }
        assert!(fs.list(dir).unwrap().iter().all(|entry| entry.name == NAME));
    }

    #[test]
    fn damaged_lines_are_skipped_and_the_others_kept_and_unknown_words_mean_nothing() {
        let whole = table(5, 3);
        let text = whole.text().replace("replicas=2", "replicas=2 colour=green");
        assert_eq!(Remembered::parse(&text), (whole.clone(), vec![]));
        let damaged = text.replace("api=10.0.0.2:7650", "api=10.0.0.2:76500");
        let (read, lines) = Remembered::parse(&damaged);
        assert_eq!((read.claims, lines), (vec![whole.claims[0].clone(), whole.claims[2].clone()], vec![3]));
        assert_eq!(Remembered::parse("oklog members 2\n").1, [1]);
    }

    fn names(fs: &MemoryFs, dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_damaged_table_is_set_aside_and_its_readable_lines_stay_wherever_that_is_cut_off() {
        let (whole, dir) = (table(5, 4), Path::new("/d"));
        let text = whole.text().replace("api=10.0.0.2:7650", "api=10.0.0.2:76500");
        for (name, step) in [NAME, NEXT].into_iter().flat_map(|name| (0..12).map(move |step| (name, step))) {
            let fs = MemoryFs::default();
            fs.create_dir_all(dir).unwrap();
            let file = fs.create_new(&dir.join(name)).unwrap();
            file.append(text.as_bytes()).and_then(|()| file.sync_data()).and_then(|()| fs.sync_dir(dir)).unwrap();
            fs.crash_at(fs.operations() + step);
            // It may come to its end or not.
            let _ = Remembered::load(&fs, dir);
            fs.crash(&mut Dice::new(step));
            fs.recover();
            for _ in 0..2 {
                let found = Remembered::load(&fs, dir).unwrap();
                assert_eq!((found.start, found.claims.len()), (5, 3), "{name}, after step {step}");
                let names = names(&fs, dir);
                assert!(
                    names.len() == 2 && names.contains(&"members.corrupt".into()),
                    "{name}, after step {step}: {names:?}"
                );
            }
            let mut aside = vec![0; text.len()];
            read_full_at(&*fs.open(&dir.join("members.corrupt")).unwrap(), &mut aside, Bytes(0)).unwrap();
            assert_eq!(aside, text.as_bytes());
        }
    }

    #[test]
    fn a_table_that_is_empty_or_cannot_be_read_is_set_aside_and_the_start_goes_on() {
        let (fs, dir) = (MemoryFs::default(), Path::new("/d"));
        fs.create_dir_all(dir).unwrap();
        fs.create_new(&dir.join(NAME)).unwrap();
        assert_eq!(Remembered::load(&fs, dir).unwrap(), Remembered::default());
        fs.fail_nth(crate::world::fs::memory::Op::Open, 1, io::ErrorKind::PermissionDenied);
        assert_eq!(Remembered::load(&fs, dir).unwrap(), Remembered::default());
        assert_eq!(names(&fs, dir), ["members.1.corrupt", "members.corrupt"]);
    }

    #[test]
    fn whatever_the_file_holds_nothing_breaks() {
        let text = table(5, 5).text().into_bytes();
        for seed in 0..2_000 {
            let (mut dice, mut garbled) = (Dice::new(seed), text.clone());
            for _ in 0..1 + dice.below(20) {
                let at = dice.below(garbled.len() as u64) as usize;
                garbled[at] = dice.below(256) as u8;
            }
            let (read, lines) = Remembered::parse(&String::from_utf8_lossy(&garbled));
            assert!(read.claims.len() + lines.len() <= garbled.len(), "replay with seed {seed}");
        }
    }

    #[test]
    fn a_crash_at_any_step_of_saving_leaves_the_old_table_or_the_new_one() {
        let (old, new, dir) = (table(5, 9), table(6, 12), Path::new("/d"));
        let mut done = false;
        for step in 0.. {
            let fs = MemoryFs::default();
            fs.create_dir_all(dir).unwrap();
            old.save(&fs, dir).unwrap();
            fs.crash_at(fs.operations() + step);
            let saved = new.save(&fs, dir).is_ok();
            fs.crash(&mut Dice::new(step));
            fs.recover();
            let found = Remembered::load(&fs, dir).unwrap();
            assert!(found == new || (found == old && !saved), "after step {step}: {found:?}");
            new.save(&fs, dir).unwrap();
            assert_eq!(Remembered::load(&fs, dir).unwrap(), new, "saving goes on after step {step}");
            if saved {
                done = true;
                break;
            }
        }
        assert!(done);
    }

    /// A crash between removing the old table and naming the new one leaves `members.new` alone; the saving that followed
    /// began by removing that, and a crash then left none: the node forgot whom to miss, and began with a start number that
    /// the others had seen pass.
    #[test]
    fn a_crash_in_one_saving_and_another_in_the_next_leave_a_table() {
        let (old, new, newer, dir) = (table(5, 9), table(6, 12), table(7, 3), Path::new("/d"));
        for (first, second, seed) in (0..12).flat_map(|n| (0..14).flat_map(move |m| (0..4).map(move |s| (n, m, s)))) {
            let fs = MemoryFs::default();
            fs.create_dir_all(dir).unwrap();
            old.save(&fs, dir).unwrap();
            for (table, step) in [(&new, first), (&newer, second)] {
                fs.crash_at(fs.operations() + step);
                // It may fail or be done before.
                let _ = table.save(&fs, dir);
                fs.crash(&mut Dice::new(seed));
                fs.recover();
            }
            let found = Remembered::load(&fs, dir).unwrap();
            assert!([&old, &new, &newer].contains(&&found), "after steps {first} and {second}: {found:?}");
        }
    }

    #[test]
    fn start_numbers_rise_whatever_the_clock_does() {
        assert_eq!(table(5, 0).next_start(9), 9);
        assert_eq!(table(5, 0).next_start(5), 6);
        assert_eq!(table(5, 0).next_start(0), 6);
        assert_eq!(Remembered::default().next_start(0), 1);
    }
}
