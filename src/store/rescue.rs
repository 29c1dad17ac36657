//! What is whole in a file of either form, and copying it to segments of its own.
//!
//! Of a sealed file that is the text of the blocks that can be unpacked: a damaged one costs its own records and no others.
//! Pages that cannot be read count as zeroes, as if they were damaged.

use super::writer::{MOST_NAMES, Synced, Writer};
use crate::record::stored::{self, Digest};
use crate::segment::handle::Known;
use crate::segment::recover::{examine, look};
use crate::segment::sealed::{Glance, Sealed, SealedText, form_of, glance, of_another_version};
use crate::segment::sift::{Flaw, Survey, sift, survey, tells_of_the_file};
use crate::segment::{Bounds, Form, Segment, State};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::nop::NopFile;
use crate::world::fs::{File, FileSystem};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What is read as one where a file cannot be read.
const PAGE: u64 = 4096;

/// How often something is read before it counts as what cannot be.
const TRIES: u32 = 4;

/// What reading a file of either form from front to back has shown.
pub(super) struct Look {
    /// What its text turned out to hold.
    pub survey: Survey,
    /// That text: of a sealed file, what can be unpacked of it.
    pub text: Arc<dyn File>,
    /// How the file holds it.
    pub form: Form,
    /// How long the file is.
    pub disk: Bytes,
    /// What is wrong with the index of a sealed file, where all its records can be had without it.
    pub index: Option<String>,
}

impl Look {
    /// The file as a segment of these records.
    pub fn known(&self, digest: Digest) -> Known {
        Known { form: self.form, disk: self.disk, ..Known::from(digest) }
    }
}

/// Reads a file to its end and says what of it is whole.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] if it is a sealed one of a version that is not known here: nothing can be said of it.
pub(super) fn look_into(file: Arc<dyn File>) -> io::Result<Look> {
    let disk = file.size()?;
    let plain = file.clone();
    let file: Arc<dyn File> = Arc::new(Steady::new(file, disk));
    // A sealed one of which the first bytes are damaged is told by its footer.
    if form_of(&*file)? == Form::Plain && !matches!(glance(&*file)?, Glance::Sound(_)) {
        return Ok(Look { survey: look(&plain)?, text: plain, form: Form::Plain, disk, index: None });
    }
    let said = match glance(&*file)? {
        Glance::Version(version) => return Err(of_another_version(version)),
        Glance::Sound(digest) => Some(digest),
        Glance::Damaged(_) => None,
    };
    let index = match Sealed::open(file.clone()) {
        Ok(sealed) => sealed.fault(),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Some(e.to_string()),
        Err(e) => return Err(e),
    };
    // Every block is unpacked, whatever the index says.
    let salvaged = match Sealed::salvage(file) {
        Ok(sealed) => Arc::new(sealed),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(nothing_in(disk, &e)),
        Err(e) => return Err(e),
    };
    let lost = lost_in(&salvaged, said);
    let text: Arc<dyn File> = Arc::new(SealedText::new(salvaged));
    let found = look(&text)?;
    let survey = Survey { flaw: found.flaw.clone().or(lost), ..found };
    Ok(Look { survey, text, form: Form::Sealed, disk, index })
}

/// What is wrong with a sealed file if records are missing. `said`: what its footer says of its text, if that is sound.
fn lost_in(salvaged: &Sealed, said: Option<Digest>) -> Option<Flaw> {
    let end = salvaged.blocks().last().map_or(0, |block| block.offset + u64::from(block.packed));
    let at = match (said, salvaged.lost().first()) {
        (Some(said), _) if said == *salvaged.digest() => return None,
        (Some(_), lost) => lost.map_or(end, |lost| lost.start),
        // Behind the last block the index begins: whether a block was there too is told by the last id in the name.
        (None, Some(lost)) if lost.start < end => lost.start,
        (None, _) => return None,
    };
    Some(Flaw::Unreadable { at: Bytes(at), why: "it is no block that can be unpacked".to_string() })
}

/// A file that is read again where that has failed, and in which a page that cannot be read is one of zeroes.
pub(super) struct Steady {
    file: Arc<dyn File>,
    size: Bytes,
    /// The numbers of the pages that cannot be read.
    bad: Mutex<BTreeSet<u64>>,
}

impl Steady {
    /// This one, which is so long.
    pub fn new(file: Arc<dyn File>, size: Bytes) -> Steady {
        Steady { file, size, bad: Mutex::default() }
    }

    fn try_read(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        let mut read = self.file.read_at(buffer, offset);
        for _ in 1..TRIES {
            match &read {
                Err(e) if tells_of_the_file(e) => read = self.file.read_at(buffer, offset),
                _ => break,
            }
        }
        read
    }
}

impl File for Steady {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        let page = offset.0 / PAGE;
        let end = offset.0.saturating_add(buffer.len() as u64);
        let is_clear = lock(&self.bad).range(page..=end / PAGE).next().is_none();
        if is_clear {
            match self.try_read(buffer, offset) {
                Err(e) if tells_of_the_file(&e) => {}
                other => return other,
            }
        }
        let left = (PAGE - offset.0 % PAGE).min(self.size.0.saturating_sub(offset.0));
        let most = usize::try_from(left).unwrap_or_default().min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        if !lock(&self.bad).contains(&page) {
            match self.try_read(buffer, offset) {
                Err(e) if tells_of_the_file(&e) => lock(&self.bad).insert(page),
                other => return other,
            };
        }
        buffer.fill(0);
        Ok(most)
    }

    fn size(&self) -> io::Result<Bytes> {
        Ok(self.size)
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.file.truncate(to)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn nothing_in(disk: Bytes, error: &io::Error) -> Look {
    let flaw = Some(Flaw::Unreadable { at: Bytes(0), why: error.to_string() });
    let survey = Survey { size: disk, flaw, ..Survey::default() };
    Look { survey, text: Arc::new(NopFile::default()), form: Form::Sealed, disk, index: None }
}

/// What was copied out of a damaged file.
pub(super) struct Copied {
    /// How many records are whole.
    pub records: u64,
    /// The copies that were made now.
    pub segments: Vec<Arc<Segment>>,
    /// Where copies lie that were made before.
    pub before: Vec<(PathBuf, Known)>,
}

/// Copies what is whole in a text to new segments, save for what an interrupted recovery has copied already. The caller
/// syncs the directory. `except` is the path of the file itself.
pub(super) fn copy_out(
    fs: &Arc<dyn FileSystem>,
    dir: &Path,
    text: &dyn File,
    except: Option<&Path>,
) -> io::Result<Copied> {
    let there = survey(text)?.runs.iter().map(|run| find(&**fs, dir, run, except)).collect::<io::Result<Vec<_>>>()?;
    let mut writers: Vec<Option<Writer>> = Vec::new();
    let survey = sift(text, &|_| true, &mut |run, block| {
        if writers.len() <= run {
            let is_there = there.get(run).is_some_and(Option::is_some);
            let first = stored::id_at(block).ok_or(io::ErrorKind::InvalidData)?;
            writers.push(if is_there { None } else { Some(Writer::begin(fs, dir, first, Form::Plain)?) });
        }
        match writers.get_mut(run) {
            Some(Some(writer)) => writer.append(block).map_err(|e| io::Error::other(e.to_string())),
            _ => Ok(()),
        }
    })?;
    let synced: Vec<_> = writers.into_iter().flatten().map(Writer::sync).collect::<io::Result<_>>()?;
    let segments: Vec<Arc<Segment>> = synced.into_iter().map(Synced::name).collect::<io::Result<_>>()?;
    Ok(Copied { records: survey.records(), segments, before: there.into_iter().flatten().collect() })
}

/// Where exactly these records lie already, in either form, if they do.
fn find(
    fs: &dyn FileSystem,
    dir: &Path,
    digest: &Digest,
    except: Option<&Path>,
) -> io::Result<Option<(PathBuf, Known)>> {
    for state in [State::Flushed, State::Sealed] {
        for n in 0..MOST_NAMES {
            let path = dir.join(Bounds::Range(digest.first, digest.last, n).file_name(state));
            let file = match fs.open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) if tells_of_the_file(&e) => continue,
                other => other?,
            };
            if except != Some(path.as_path())
                && let Some(known) = same(&file, digest)?
            {
                return Ok(Some((path, known)));
            }
        }
    }
    Ok(None)
}

/// The file as a segment, if it is whole and holds exactly these records.
fn same(file: &Arc<dyn File>, digest: &Digest) -> io::Result<Option<Known>> {
    let plain = Known::from(*digest);
    let (text, known) = match form_of(&**file)? {
        Form::Plain if file.size()? == digest.len => (file.clone(), plain),
        Form::Sealed if glance(&**file)? == Glance::Sound(*digest) => {
            let Ok(sealed) = Sealed::open(file.clone()) else { return Ok(None) };
            let known = plain.sealed(sealed.disk());
            (Arc::new(SealedText::new(Arc::new(sealed))) as Arc<dyn File>, known)
        }
        Form::Plain | Form::Sealed => return Ok(None),
    };
    let is_same = examine(&text).is_ok_and(|found| found.fault.is_none() && found.digest == Some(*digest));
    Ok(is_same.then_some(known))
}
