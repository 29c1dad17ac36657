//! The flags of each command as values: read, in bounds, and fitting together.

use super::address::Address;
use super::flags::{self, CLUSTER_PORT, Command, Flag};
use super::parse::{Given, Refusal};
use crate::cluster::PeerKind;
use crate::unit::Bytes;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Which file system a server keeps its segments on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filesystem {
    /// The machine's.
    Real,
    /// Memory; gone with the process.
    Virtual,
    /// None: what is written is forgotten.
    Nop,
}

/// Which port of an ingester a forwarder speaks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Lines, not waited for.
    Fast,
    /// Lines, on stable storage when the connection closes cleanly.
    Durable,
}

/// What a forwarder does while no ingester takes lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Buffer {
    /// It stops reading.
    Block,
    /// It drops the oldest lines and counts them.
    Drop,
}

/// What every server is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerFlags {
    /// Where HTTP is served.
    pub api: Address,
    /// Where other nodes' datagrams come in.
    pub cluster: Address,
    /// What other nodes call this one by; chosen from the interfaces when `None`.
    pub advertise: Option<Address>,
    /// Nodes to join.
    pub peers: Vec<Address>,
    /// The keys that calls between nodes are signed with, if they are.
    pub key_file: Option<PathBuf>,
    /// Where files go.
    pub filesystem: Filesystem,
}

impl ServerFlags {
    fn read(given: &Given) -> Result<ServerFlags, Refusal> {
        let cluster = needed(given, &flags::CLUSTER)?;
        let own_port = if cluster.port() == 0 { CLUSTER_PORT } else { cluster.port() };
        Ok(ServerFlags {
            api: needed(given, &flags::API)?,
            advertise: given.address_or(&flags::ADVERTISE, Some(own_port))?,
            cluster,
            peers: given.addresses(&flags::PEER)?,
            key_file: path(given, &flags::KEY_FILE)?,
            filesystem: match given.judged(&flags::FILESYSTEM)?.as_str() {
                "virtual" => Filesystem::Virtual,
                "nop" => Filesystem::Nop,
                _ => Filesystem::Real,
            },
        })
    }
}

/// What an ingest tier is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IngestFlags {
    /// Where lines come in that are not waited for.
    pub fast: Address,
    /// Where lines come in that are synced before a clean close.
    pub durable: Address,
    /// Where whole segments come in.
    pub bulk: Address,
    /// Its directory.
    pub path: PathBuf,
    /// An active segment of this size is closed.
    pub flush_size: Bytes,
    /// An active segment of this age is closed.
    pub flush_age: Duration,
    /// How long a consumer may be silent about a segment.
    pub pending_timeout: Duration,
    /// Longest record, 1 byte to 64 MiB.
    pub max_record_size: Bytes,
    /// Connections served at once on the three ports together.
    pub max_connections: usize,
    /// How long stopping waits for stores to take what is left.
    pub drain_timeout: Duration,
}

impl IngestFlags {
    fn read(given: &Given) -> Result<IngestFlags, Refusal> {
        Ok(IngestFlags {
            fast: needed(given, &flags::FAST)?,
            durable: needed(given, &flags::DURABLE)?,
            bulk: needed(given, &flags::BULK)?,
            path: given.judged(&flags::INGEST_PATH)?.into(),
            flush_size: size(given, &flags::FLUSH_SIZE)?,
            flush_age: given.duration(&flags::FLUSH_AGE)?,
            pending_timeout: given.duration(&flags::PENDING_TIMEOUT)?,
            max_record_size: size(given, &flags::MAX_RECORD)?,
            max_connections: count(given, &flags::MAX_CONNECTIONS)?,
            drain_timeout: given.duration(&flags::DRAIN_TIMEOUT)?,
        })
    }
}

/// What a store tier is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageFlags {
    /// Its directory.
    pub path: PathBuf,
    /// Threads that gather and replicate.
    pub consumers: usize,
    /// Size that store segments aim for.
    pub target_size: Bytes,
    /// How long a consumer gathers.
    pub target_age: Duration,
    /// How long a consumer waits when there is nothing to gather.
    pub delay: Duration,
    /// Pieces in which segments are read and written.
    pub buffer_size: Bytes,
    /// R if it was set; see [`ServeFlags::replicas`].
    pub replication_factor: Option<u8>,
    /// Age at which segments are sealed that are not full; `None` where nothing is to be sealed.
    pub seal_age: Option<Duration>,
    /// Age at which segments are trashed.
    pub retain: Duration,
    /// Time in the trash after which they are removed.
    pub purge: Duration,
    /// Size beyond which the oldest segments are trashed.
    pub max_size: Option<Bytes>,
}

impl StorageFlags {
    fn read(given: &Given) -> Result<StorageFlags, Refusal> {
        Ok(StorageFlags {
            path: given.judged(&flags::STORE_PATH)?.into(),
            consumers: count(given, &flags::CONSUMERS)?,
            target_size: size(given, &flags::TARGET_SIZE)?,
            target_age: given.duration(&flags::TARGET_AGE)?,
            delay: given.duration(&flags::DELAY)?,
            buffer_size: size(given, &flags::BUFFER_SIZE)?,
            // The table bounds it to what fits.
            replication_factor: match given.count(&flags::REPLICATION)? {
                Some(count) if given.is_set(&flags::REPLICATION) => Some(u8::try_from(count).unwrap_or(u8::MAX)),
                _ => None,
            },
            seal_age: {
                let age = given.duration(&flags::SEAL_AGE)?;
                given.switch(&flags::SEAL)?.then_some(age)
            },
            retain: given.duration(&flags::RETAIN)?,
            purge: given.duration(&flags::PURGE)?,
            max_size: given.size(&flags::MAX_SIZE)?,
        })
    }
}

/// `oklog ingest`, `oklog store` and `oklog ingeststore`: at least one of the tiers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServeFlags {
    /// What every server is told.
    pub server: ServerFlags,
    /// The ingest tier; `None` on a store.
    pub ingest: Option<IngestFlags>,
    /// The store tier; `None` on an ingester.
    pub storage: Option<StorageFlags>,
    /// Log step by step.
    pub debug: bool,
}

impl ServeFlags {
    /// Which tiers there are.
    pub fn kind(&self) -> PeerKind {
        match (&self.ingest, &self.storage) {
            (Some(_), Some(_)) => PeerKind::IngestStore,
            (Some(_), None) => PeerKind::Ingest,
            (None, _) => PeerKind::Store,
        }
    }

    /// R, for a node that consumes: as it was set; else 1 for a node without peers, which could never reach 2; else the
    /// default.
    pub fn replicas(&self) -> Option<u8> {
        let usual = || match self.server.peers.is_empty() {
            true => 1,
            false => flags::REPLICATION.default.and_then(|text| text.parse().ok()).unwrap_or(2),
        };
        self.storage.as_ref().map(|storage| storage.replication_factor.unwrap_or_else(usual))
    }

    pub(super) fn read(kind: PeerKind, given: &Given) -> Result<ServeFlags, Refusal> {
        given.operands()?;
        let flags = ServeFlags {
            server: ServerFlags::read(given)?,
            ingest: if kind.ingests() { Some(IngestFlags::read(given)?) } else { None },
            storage: if kind.stores() { Some(StorageFlags::read(given)?) } else { None },
            debug: given.switch(&flags::DEBUG)?,
        };
        if let (Some(ingest), Some(storage)) = (&flags.ingest, &flags.storage)
            && same_path(&ingest.path, &storage.path)
        {
            let expected = "another directory than that of -ingest.path".into();
            let (command, flag) = (given.command().name, flags::STORE_PATH.name);
            return Err(Refusal::BadValue { command, flag, value: given.text(&flags::STORE_PATH), expected });
        }
        Ok(flags)
    }
}

/// `oklog forward`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardFlags {
    /// What is put before every line, in order, each followed by a space.
    pub prefixes: Vec<String>,
    /// Where HTTP is served, if at all.
    pub api: Option<Address>,
    /// Which port of the ingesters is spoken to.
    pub mode: Mode,
    /// What is done while no ingester takes lines.
    pub buffer: Buffer,
    /// The ingesters, as they were given: their schemes are the forwarder's own.
    pub addresses: Vec<String>,
    /// Log step by step.
    pub debug: bool,
}

impl ForwardFlags {
    pub(super) fn read(given: &Given) -> Result<ForwardFlags, Refusal> {
        Ok(ForwardFlags {
            prefixes: given.texts(&flags::PREFIX),
            api: given.address(&flags::FORWARD_API)?,
            mode: if given.judged(&flags::MODE)? == "durable" { Mode::Durable } else { Mode::Fast },
            buffer: if given.judged(&flags::BUFFER)? == "drop" { Buffer::Drop } else { Buffer::Block },
            addresses: given.operands()?.to_vec(),
            debug: given.switch(&flags::DEBUG)?,
        })
    }
}

/// `oklog query`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueryFlags {
    /// The store to ask.
    pub store: Address,
    /// The directory to read in place of asking a store.
    pub path: Option<PathBuf>,
    /// The first millisecond: known to be RFC 3339, an id, `now`, or how long ago.
    pub from: String,
    /// The last millisecond, likewise.
    pub to: String,
    /// What a record must contain; empty for all.
    pub q: String,
    /// `q` is a regular expression.
    pub regex: bool,
    /// Statistics, no records.
    pub stats: bool,
    /// Read the answer and print nothing of it.
    pub nocopy: bool,
    /// Print ids.
    pub ulid: bool,
    /// Print times.
    pub time: bool,
    /// Say on standard error how the query went.
    pub verbose: bool,
    /// Only the newest so many records.
    pub limit: Option<u64>,
    /// Log step by step.
    pub debug: bool,
}

impl QueryFlags {
    pub(super) fn read(given: &Given) -> Result<QueryFlags, Refusal> {
        given.operands()?;
        if given.is_set(&flags::PATH) && given.is_set(&flags::STORE) {
            let expected = "no store where -path says what is read".into();
            let (command, flag) = (given.command().name, flags::STORE.name);
            return Err(Refusal::BadValue { command, flag, value: given.text(&flags::STORE), expected });
        }
        Ok(QueryFlags {
            store: needed(given, &flags::STORE)?,
            path: path(given, &flags::PATH)?,
            from: given.judged(&flags::FROM)?,
            to: given.judged(&flags::TO)?,
            q: given.text(&flags::Q),
            regex: given.switch(&flags::REGEX)?,
            stats: given.switch(&flags::STATS)?,
            nocopy: given.switch(&flags::NOCOPY)?,
            ulid: given.switch(&flags::ULID)?,
            time: given.switch(&flags::TIME)?,
            verbose: given.switch(&flags::VERBOSE)?,
            limit: given.count(&flags::LIMIT)?,
            debug: given.switch(&flags::DEBUG)?,
        })
    }
}

/// `oklog stream`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamFlags {
    /// The store to ask.
    pub store: Address,
    /// What a record must contain; empty for all.
    pub q: String,
    /// `q` is a regular expression.
    pub regex: bool,
    /// How long records are held back to put them in order; zero for not at all.
    pub window: Duration,
    /// Print ids.
    pub ulid: bool,
    /// Log step by step.
    pub debug: bool,
}

impl StreamFlags {
    pub(super) fn read(given: &Given) -> Result<StreamFlags, Refusal> {
        given.operands()?;
        Ok(StreamFlags {
            store: needed(given, &flags::STORE)?,
            q: given.text(&flags::Q),
            regex: given.switch(&flags::REGEX)?,
            window: given.duration(&flags::WINDOW)?,
            ulid: given.switch(&flags::ULID)?,
            debug: given.switch(&flags::DEBUG)?,
        })
    }
}

/// `oklog forget`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForgetFlags {
    /// The node that is asked.
    pub store: Address,
    /// Where the cluster's key is, if it has one.
    pub key_file: Option<PathBuf>,
    /// Who is to be forgotten: address of its API, or id of its directory.
    pub name: String,
    /// Log step by step.
    pub debug: bool,
}

impl ForgetFlags {
    pub(super) fn read(given: &Given) -> Result<ForgetFlags, Refusal> {
        Ok(ForgetFlags {
            store: needed(given, &flags::STORE)?,
            key_file: path(given, &flags::KEY_FILE)?,
            name: given.operands()?.first().cloned().unwrap_or_default(),
            debug: given.switch(&flags::DEBUG)?,
        })
    }
}

/// `oklog verify`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyFlags {
    /// On so many stores every record must be.
    pub copies: Option<u32>,
    /// Print notes too.
    pub notes: bool,
    /// What is looked at.
    pub dirs: Vec<PathBuf>,
    /// Log step by step.
    pub debug: bool,
}

impl VerifyFlags {
    pub(super) fn read(given: &Given) -> Result<VerifyFlags, Refusal> {
        Ok(VerifyFlags {
            // The table bounds it to what fits.
            copies: given.count(&flags::COPIES)?.map(|copies| u32::try_from(copies).unwrap_or(u32::MAX)),
            notes: given.switch(&flags::NOTES)?,
            dirs: given.operands()?.iter().map(PathBuf::from).collect(),
            debug: given.switch(&flags::DEBUG)?,
        })
    }
}

/// `oklog cat`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatFlags {
    /// What is printed; `-` is standard input, and so is none at all.
    pub files: Vec<String>,
    /// Log step by step.
    pub debug: bool,
}

impl CatFlags {
    pub(super) fn read(given: &Given) -> Result<CatFlags, Refusal> {
        Ok(CatFlags { files: given.operands()?.to_vec(), debug: given.switch(&flags::DEBUG)? })
    }
}

/// `oklog testsvc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestsvcFlags {
    /// The name in every line.
    pub id: String,
    /// Length of a line, its LF included.
    pub size: Bytes,
    /// Lines per second.
    pub rate: u64,
    /// Log step by step.
    pub debug: bool,
}

impl TestsvcFlags {
    pub(super) fn read(given: &Given) -> Result<TestsvcFlags, Refusal> {
        given.operands()?;
        Ok(TestsvcFlags {
            id: given.text(&flags::ID),
            size: size(given, &flags::SIZE)?,
            rate: given.count(&flags::RATE)?.unwrap_or_default(),
            debug: given.switch(&flags::DEBUG)?,
        })
    }
}

/// What `argv` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Run a server with one tier or both.
    Serve(Box<ServeFlags>),
    /// Send standard input to an ingester.
    Forward(ForwardFlags),
    /// Print records between two times.
    Query(QueryFlags),
    /// Print records as they arrive.
    Stream(StreamFlags),
    /// Say that a node will not come back.
    Forget(ForgetFlags),
    /// Say whether data directories are sound.
    Verify(VerifyFlags),
    /// Print the records of files.
    Cat(CatFlags),
    /// Print lines at a steady rate.
    Testsvc(TestsvcFlags),
    /// Print all commands, or one.
    Help(Option<&'static Command>),
    /// Print the version.
    Version,
}

impl Request {
    /// Reads the arguments without the program's name.
    pub fn read(args: &[String]) -> Result<Request, Refusal> {
        let (first, rest) = args.split_first().ok_or(Refusal::NoCommand)?;
        match first.as_str() {
            "-h" | "-help" | "--h" | "--help" => return Ok(Request::Help(None)),
            "-version" | "--version" => return Ok(Request::Version),
            _ => {}
        }
        let command = super::parse::command(first)?;
        let given = Given::read(command, rest)?;
        given.switch(&flags::DEBUG)?;
        if given.switch(&flags::HELP)? {
            return Ok(Request::Help(Some(command)));
        }
        let serve = |kind| ServeFlags::read(kind, &given).map(|flags| Request::Serve(Box::new(flags)));
        match command.name {
            "ingest" => serve(PeerKind::Ingest),
            "store" => serve(PeerKind::Store),
            "ingeststore" => serve(PeerKind::IngestStore),
            "forward" => ForwardFlags::read(&given).map(Request::Forward),
            "query" => QueryFlags::read(&given).map(Request::Query),
            "stream" => StreamFlags::read(&given).map(Request::Stream),
            "forget" => ForgetFlags::read(&given).map(Request::Forget),
            "verify" => VerifyFlags::read(&given).map(Request::Verify),
            "cat" => CatFlags::read(&given).map(Request::Cat),
            "testsvc" => TestsvcFlags::read(&given).map(Request::Testsvc),
            "version" => given.operands().map(|_| Request::Version),
            _ => match given.operands()?.first() {
                Some(name) => super::parse::command(name).map(|command| Request::Help(Some(command))),
                None => Ok(Request::Help(None)),
            },
        }
    }
}

/// Whether two paths are spelled alike, dots and doubled slashes aside. Links are found out by the directory's lock.
fn same_path(a: &Path, b: &Path) -> bool {
    let (a, b) = (a.components(), b.components());
    let is_step = |step: &Component<'_>| *step != Component::CurDir;
    a.filter(is_step).eq(b.filter(is_step))
}

/// The path of a flag that has no default.
fn path(given: &Given, flag: &Flag) -> Result<Option<PathBuf>, Refusal> {
    Ok(match given.is_set(flag) {
        true => Some(given.judged(flag)?.into()),
        false => None,
    })
}

// The three below are for flags that have a default, so that there always is a value: `None` would be a fault of the
// table, which a test looks for.

fn needed(given: &Given, flag: &Flag) -> Result<Address, Refusal> {
    given.address(flag)?.ok_or_else(|| missing(given, flag))
}

fn size(given: &Given, flag: &Flag) -> Result<Bytes, Refusal> {
    given.size(flag)?.ok_or_else(|| missing(given, flag))
}

fn count(given: &Given, flag: &Flag) -> Result<usize, Refusal> {
    let count = given.count(flag)?.ok_or_else(|| missing(given, flag))?;
    usize::try_from(count).map_err(|_| missing(given, flag))
}

fn missing(given: &Given, flag: &Flag) -> Refusal {
    Refusal::NoValue { command: given.command().name, flag: flag.name.to_string() }
}
