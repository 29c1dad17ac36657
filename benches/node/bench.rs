//! What all cases share: what was asked for, the place, the tools, the corpus, and a node that has it.

use crate::Outcome;
use crate::cases::{Case, Stage};
use crate::consume;
use crate::corpus::Corpus;
use crate::floors::Floors;
use crate::options::Options;
use crate::place::Place;
use crate::process::{Node, Role, is_there};
use crate::table::{Row, Table};
use crate::tools::Tools;
use std::path::PathBuf;
use std::sync::Arc;

/// A node of both tiers that has a corpus, all of it consumed and compacted.
pub struct Loaded {
    pub node: Node,
    pub corpus: Corpus,
    stage: Stage,
    /// The corpus in 16 files, so that `rg` uses all cores; empty where there is no `rg`.
    pub pieces: PathBuf,
    /// The store's segments.
    pub segments: Vec<PathBuf>,
    /// Bytes in them.
    pub stored: u64,
}

/// One run of the benchmark.
pub struct Bench {
    pub options: Options,
    pub place: Arc<Place>,
    pub tools: Tools,
    pub table: Table,
    pub has_rg: bool,
    pub has_curl: bool,
    corpus: Option<Corpus>,
    loaded: Option<Loaded>,
}

impl Bench {
    pub fn new(options: Options, floors: Floors) -> Outcome<Bench> {
        let place = Place::new(&options.dir)?;
        let (has_rg, has_curl) = (is_there("rg"), is_there("curl"));
        let tools = Tools::build()?;
        println!("binary: {}", options.binary.display());
        if !has_rg {
            println!("rg is not here (package ripgrep): queries have no reference and are not judged by one");
        }
        if !has_curl {
            println!("curl is not here: what is fetched with it is not measured");
        }
        if options.is_brief() {
            println!(
                "small corpus: spans of time and counts are cut to a tenth; ratios say little, and nothing of floors"
            );
        }
        let table = Table::new(floors);
        Ok(Bench { options, place, tools, table, has_rg, has_curl, corpus: None, loaded: None })
    }

    /// Runs one case on a stage that is set for it.
    pub fn run(&mut self, case: &Case) -> Outcome<()> {
        match case.stage {
            Stage::Bare => self.loaded = None,
            Stage::Loaded(_) | Stage::Sealed => self.load(case.stage)?,
        }
        self.place.need(case.room * self.options.size + (64 << 20))?;
        eprintln!("{}: {}", case.name, case.says);
        (case.run)(self)
    }

    pub fn add(&mut self, row: Row) {
        self.table.add(row);
    }

    /// The corpus, made when it is first asked for.
    pub fn corpus(&mut self) -> Outcome<Corpus> {
        if let Some(corpus) = &self.corpus {
            return Ok(corpus.clone());
        }
        self.place.need(self.options.size * 5 / 4)?;
        let corpus = Corpus::get(&self.options, &self.tools, &self.place)?;
        eprintln!("corpus: {} bytes, {} lines, {}", corpus.bytes, corpus.lines, corpus.says);
        self.corpus = Some(corpus.clone());
        Ok(corpus)
    }

    /// Starts a node in an empty directory of this name.
    pub fn node(&self, role: Role, name: &str, flags: &[&str]) -> Outcome<Node> {
        let dir = self.place.fresh(name)?;
        Node::start(&self.place, &self.options.binary, role, &dir, flags)
    }

    /// The node that has the corpus.
    pub fn loaded(&self) -> Outcome<&Loaded> {
        Ok(self.loaded.as_ref().ok_or("no node was loaded for this case")?)
    }

    fn load(&mut self, stage: Stage) -> Outcome<()> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.stage == stage) {
            return Ok(());
        }
        self.loaded = None;
        let scale = if let Stage::Loaded(scale) = stage { scale } else { 1 };
        let is_sealed = stage == Stage::Sealed;
        self.place.need(self.options.size * scale * 7 / 2)?;
        let corpus = match scale {
            1 => self.corpus()?,
            _ => Corpus::make(&self.tools, &self.place, "corpus-large.log", self.options.size * scale)?,
        };
        eprintln!("loading a node with {:.0} MB", corpus.mb());
        let flags = if is_sealed { ["-store.seal-age=0s"] } else { ["-store.seal=false"] };
        let node = self.node(Role::Both, "loaded", &flags)?;
        self.tools.push(node.fast(), &corpus.path, 4)?;
        consume::settle(&mut [node.client()], corpus.lines)?;
        if is_sealed {
            consume::seal_all(&node)?;
        }
        let pieces = self.place.fresh("pieces")?;
        if self.has_rg {
            corpus.cut(&pieces, 16)?;
        }
        let segments = node.files("store", &["flushed", "reading", "sealed"]);
        let stored = segments.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        self.loaded = Some(Loaded { node, corpus, stage, pieces, segments, stored });
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.place.clear();
    }
}
