//! The one table of commands and flags: what the parser accepts, what help prints, what the manual is held against.
//!
//! Names, defaults and ports are those of OK Log as people run it, with a few flags of our own. A flag belongs to a group;
//! a command is a list of groups: a server of one tier takes that tier's and those of every server.

use std::time::Duration;

/// What a flag takes, and the bounds of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing; or `=true`, `=false` as Go's flag package has it.
    Switch,
    /// Any text, also none.
    Text,
    /// A path that is not empty.
    Path,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Where to listen, or whom to call. The number is the port where none is given.
    Address(Use, u16),
    /// A point in time: RFC 3339, an id, `now`, or how long ago.
    Time,
    /// A span of time, at least as long as this.
    Duration(Duration),
    /// An amount of bytes between these two, both allowed.
    Size(u64, u64),
    /// A whole number between these two, both allowed.
    Count(u64, u64),
}

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// To listen on: no host means all interfaces, port 0 means any free one.
    Listen,
    /// To be called: no host means this machine, port 0 means nothing.
    Call,
}

/// One flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag {
    /// The name, without the dash.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What its value is called in help; empty for a switch.
    pub value: &'static str,
    /// What holds when it is not given, as one would write it.
    pub default: Option<&'static str>,
    /// Whether it collects; otherwise the last one wins.
    pub repeats: bool,
    /// One line for people, without a full stop.
    pub help: &'static str,
}

impl Flag {
    const fn new(name: &'static str, kind: Kind, value: &'static str, help: &'static str) -> Flag {
        Flag { name, kind, value, default: None, repeats: false, help }
    }

    const fn or(self, default: &'static str) -> Flag {
        Flag { default: Some(default), ..self }
    }

    const fn repeated(self) -> Flag {
        Flag { repeats: true, ..self }
    }
}

/// What follows the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operands {
    /// What one is called in help; empty where none is taken.
    pub name: &'static str,
    /// At least so many.
    pub least: usize,
    /// At most so many.
    pub most: usize,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// The word after `oklog`.
    pub name: &'static str,
    /// One line for people, without a full stop.
    pub summary: &'static str,
    /// The manual page that describes it.
    pub page: &'static str,
    /// Its flags.
    pub groups: &'static [&'static [Flag]],
    /// What follows the flags.
    pub operands: Operands,
}

impl Command {
    /// The command of this name.
    pub fn find(name: &str) -> Option<&'static Command> {
        COMMANDS.iter().find(|command| command.name == name)
    }

    /// All its flags, in the order in which help prints them.
    pub fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.groups.iter().flat_map(|group| group.iter())
    }
}

/// Port of the HTTP API.
pub const API_PORT: u16 = 7650;
/// Port for lines whose sender does not wait for the disk.
pub const FAST_PORT: u16 = 7651;
/// Port for lines that are on stable storage when the connection closes cleanly.
pub const DURABLE_PORT: u16 = 7652;
/// Port for whole segments.
pub const BULK_PORT: u16 = 7653;
/// Port of the cluster's membership protocol.
pub const CLUSTER_PORT: u16 = 7659;

const SHORTEST: Duration = Duration::from_millis(1);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

use Kind::{Address, Choice, Count, Path, Size, Switch, Text, Time};
use Use::{Call, Listen};

macro_rules! flags {
    ($($id:ident = ($name:literal, $kind:expr, $value:literal, $help:literal) $(.$method:ident($($arg:literal)?))*;)*) => {
        $(#[doc = concat!("`-", $name, "`: ", $help, ".")]
        pub const $id: Flag = Flag::new($name, $kind, $value, $help)$(.$method($($arg)?))*;)*
    };
}

#[rustfmt::skip]
flags! {
    DEBUG = ("debug", Switch, "", "log what is done, step by step");
    HELP = ("help", Switch, "", "print this and exit; also -h");

    API = ("api", Address(Listen, API_PORT), "address", "listen here for HTTP").or("tcp://0.0.0.0:7650");
    CLUSTER = ("cluster", Address(Listen, CLUSTER_PORT), "address", "listen here (UDP) for other nodes").or("tcp://0.0.0.0:7659");
    ADVERTISE = ("cluster.advertise-addr", Address(Call, CLUSTER_PORT), "address", "what other nodes call this one by; chosen from the interfaces when unset");
    PEER = ("peer", Address(Call, CLUSTER_PORT), "address", "a node of the cluster to join").repeated();
    KEY_FILE = ("cluster.key-file", Path, "path", "sign what nodes say to each other with the first key in this file");
    FILESYSTEM = ("filesystem", Choice(&["real", "virtual", "nop"]), "kind", "where files go: the disk, memory, or nowhere").or("real");

    FAST = ("ingest.fast", Address(Listen, FAST_PORT), "address", "listen here for lines; they are not waited for").or("tcp://0.0.0.0:7651");
    DURABLE = ("ingest.durable", Address(Listen, DURABLE_PORT), "address", "listen here for lines; they are synced before a clean close").or("tcp://0.0.0.0:7652");
    BULK = ("ingest.bulk", Address(Listen, BULK_PORT), "address", "listen here for whole segments").or("tcp://0.0.0.0:7653");
    INGEST_PATH = ("ingest.path", Path, "path", "directory of the ingest tier").or("data/ingest");
    FLUSH_SIZE = ("ingest.segment-flush-size", Size(1, GIB), "size", "close an active segment when it is this large").or("16777216");
    FLUSH_AGE = ("ingest.segment-flush-age", Kind::Duration(SHORTEST), "duration", "close an active segment when it is this old").or("3s");
    PENDING_TIMEOUT = ("ingest.segment-pending-timeout", Kind::Duration(SHORTEST), "duration", "take a segment back from a consumer that is silent for so long").or("1m");
    MAX_RECORD = ("ingest.max-record-size", Size(1, 64 * MIB), "size", "split longer lines into records of this size").or("1048576");
    MAX_CONNECTIONS = ("ingest.max-connections", Count(1, 1_000_000), "number", "serve at most so many connections on the three ports together").or("16384");
    DRAIN_TIMEOUT = ("ingest.drain-timeout", Kind::Duration(Duration::ZERO), "duration", "when stopping, wait so long for stores to take what is left").or("30s");

    STORE_PATH = ("store.path", Path, "path", "directory of the store tier").or("data/store");
    CONSUMERS = ("store.segment-consumers", Count(1, 64), "number", "gather and replicate with so many threads").or("1");
    TARGET_SIZE = ("store.segment-target-size", Size(1, 64 * GIB), "size", "aim for store segments of this size").or("134217728");
    TARGET_AGE = ("store.segment-target-age", Kind::Duration(SHORTEST), "duration", "replicate what was gathered after so long").or("3s");
    DELAY = ("store.segment-delay", Kind::Duration(SHORTEST), "duration", "wait so long before asking again when no ingester has anything").or("100ms");
    BUFFER_SIZE = ("store.segment-buffer-size", Size(4096, GIB), "size", "read and write segments in pieces of this size").or("1048576");
    REPLICATION = ("store.segment-replication-factor", Count(1, 64), "number", "keep every record on so many stores; 1 when there is no -peer").or("2");
    RETAIN = ("store.segment-retain", Kind::Duration(SHORTEST), "duration", "trash segments that are wholly older than this").or("168h");
    PURGE = ("store.segment-purge", Kind::Duration(SHORTEST), "duration", "remove what has been in the trash for so long").or("24h");
    SEAL = ("store.seal", Switch, "", "compress segments that are full or old").or("true");
    SEAL_AGE = ("store.seal-age", Kind::Duration(Duration::ZERO), "duration", "compress segments that are wholly older than this, however small").or("10m");
    MAX_SIZE = ("store.max-size", Size(MIB, u64::MAX), "size", "trash the oldest segments when the store is larger; no limit when unset");

    PREFIX = ("prefix", Text, "text", "put this and a space before every line").repeated();
    FORWARD_API = ("api", Address(Listen, API_PORT), "address", "listen here for HTTP (metrics); not at all when unset");
    MODE = ("mode", Choice(&["fast", "durable"]), "mode", "which port of the ingesters to use").or("fast");
    BUFFER = ("buffer", Choice(&["block", "drop"]), "policy", "while no ingester takes lines: stop reading, or drop the oldest").or("block");

    STORE = ("store", Address(Call, API_PORT), "address", "the store to ask").or("localhost:7650");
    PATH = ("path", Path, "directory", "read the segments in this directory, and ask no store");
    FROM = ("from", Time, "time", "the first millisecond asked for").or("1h");
    TO = ("to", Time, "time", "the last millisecond asked for").or("now");
    Q = ("q", Text, "text", "what a record must contain; every record when unset");
    REGEX = ("regex", Switch, "", "take -q as a regular expression");
    STATS = ("stats", Switch, "", "print what a query would read, and no records");
    NOCOPY = ("nocopy", Switch, "", "read the answer and print nothing of it");
    ULID = ("ulid", Switch, "", "print the id before each record");
    TIME = ("time", Switch, "", "print the time before each record");
    VERBOSE = ("v", Switch, "", "say on standard error how the query went");
    LIMIT = ("n", Count(1, u64::MAX), "number", "print the newest so many records; all when unset");
    WINDOW = ("window", Kind::Duration(Duration::ZERO), "duration", "hold records back so long to put them in order").or("1s");

    COPIES = ("copies", Count(1, 64), "number", "every record must be on so many of the stores given, unless an ingester has it");
    NOTES = ("v", Switch, "", "print notes as well as problems");

    ID = ("id", Text, "text", "the name in every line").or("foo");
    SIZE = ("size", Size(1, 64 * MIB), "size", "length of a line, its LF included").or("512");
    RATE = ("rate", Count(1, 1_000_000), "number", "lines per second").or("5");
}

/// What every command takes.
const COMMON: &[Flag] = &[DEBUG, HELP];

/// What every server takes.
const SERVER: &[Flag] = &[API, CLUSTER, ADVERTISE, PEER, KEY_FILE, FILESYSTEM];

/// What a server with an ingest tier takes.
const INGEST: &[Flag] = &[
    FAST,
    DURABLE,
    BULK,
    INGEST_PATH,
    FLUSH_SIZE,
    FLUSH_AGE,
    PENDING_TIMEOUT,
    MAX_RECORD,
    MAX_CONNECTIONS,
    DRAIN_TIMEOUT,
];

/// What a server with a store tier takes.
const STORAGE: &[Flag] = &[
    STORE_PATH,
    CONSUMERS,
    TARGET_SIZE,
    TARGET_AGE,
    DELAY,
    BUFFER_SIZE,
    REPLICATION,
    SEAL,
    SEAL_AGE,
    RETAIN,
    PURGE,
    MAX_SIZE,
];

const NONE: Operands = Operands { name: "", least: 0, most: 0 };

/// Every command there is, in the order in which help prints them.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "ingest",
        summary: "Runs a server that takes lines and hands them to stores",
        page: "oklog-ingest.8",
        groups: &[SERVER, INGEST, COMMON],
        operands: NONE,
    },
    Command {
        name: "store",
        summary: "Runs a server that keeps lines and answers queries",
        page: "oklog-store.8",
        groups: &[SERVER, STORAGE, COMMON],
        operands: NONE,
    },
    Command {
        name: "ingeststore",
        summary: "Runs a server with both tiers: takes lines, keeps them, answers queries",
        page: "oklog-ingeststore.8",
        groups: &[SERVER, INGEST, STORAGE, COMMON],
        operands: NONE,
    },
    Command {
        name: "forward",
        summary: "Sends the lines of standard input to an ingester",
        page: "oklog-forward.1",
        groups: &[&[PREFIX, FORWARD_API, MODE, BUFFER], COMMON],
        operands: Operands { name: "address", least: 1, most: usize::MAX },
    },
    Command {
        name: "query",
        summary: "Prints the records between two times that match",
        page: "oklog-query.1",
        groups: &[&[STORE, PATH, FROM, TO, Q, REGEX, STATS, NOCOPY, ULID, TIME, VERBOSE, LIMIT], COMMON],
        operands: NONE,
    },
    Command {
        name: "stream",
        summary: "Prints matching records as they arrive",
        page: "oklog-stream.1",
        groups: &[&[STORE, Q, REGEX, WINDOW, ULID], COMMON],
        operands: NONE,
    },
    Command {
        name: "forget",
        summary: "Says that a silent node will not come back",
        page: "oklog-forget.8",
        groups: &[&[STORE, KEY_FILE], COMMON],
        operands: Operands { name: "name", least: 1, most: 1 },
    },
    Command {
        name: "verify",
        summary: "Says whether data directories are sound",
        page: "oklog-verify.1",
        groups: &[&[COPIES, NOTES], COMMON],
        operands: Operands { name: "directory", least: 1, most: usize::MAX },
    },
    Command {
        name: "cat",
        summary: "Prints the records of segment files",
        page: "oklog-cat.1",
        groups: &[COMMON],
        operands: Operands { name: "file", least: 0, most: usize::MAX },
    },
    Command {
        name: "testsvc",
        summary: "Prints lines at a steady rate, as a service would",
        page: "oklog-testsvc.1",
        groups: &[&[ID, SIZE, RATE], COMMON],
        operands: NONE,
    },
    Command {
        name: "help",
        summary: "Says what a command does and which flags it takes",
        page: "oklog.1",
        groups: &[COMMON],
        operands: Operands { name: "command", least: 0, most: 1 },
    },
    Command { name: "version", summary: "Prints the version", page: "oklog.1", groups: &[COMMON], operands: NONE },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_within_a_command() {
        for command in COMMANDS {
            let mut names: Vec<&str> = command.flags().map(|flag| flag.name).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", command.name);
        }
    }

    #[test]
    fn help_lines_are_one_line_without_a_full_stop() {
        for flag in COMMANDS.iter().flat_map(Command::flags) {
            assert!(!flag.help.contains('\n') && !flag.help.ends_with('.') && flag.help.len() < 90, "{}", flag.name);
            assert_eq!(flag.kind == Kind::Switch, flag.value.is_empty(), "{}", flag.name);
            assert!(!(flag.repeats && flag.default.is_some()), "{}", flag.name);
        }
    }
}
