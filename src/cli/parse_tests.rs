use super::*;
use crate::cli::settings::{Filesystem, IngestFlags, Mode, Request, ServeFlags, StorageFlags};
use crate::cluster::PeerKind;
use crate::world::entropy::Dice;

fn read(line: &str) -> Result<Request, Refusal> {
    Request::read(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
}

fn refusal(line: &str) -> String {
    read(line).expect_err("refused").to_string()
}

fn serve(line: &str) -> ServeFlags {
    match read(line) {
        Ok(Request::Serve(flags)) => *flags,
        other => panic!("{line}: {other:?}"),
    }
}

fn ingeststore(line: &str) -> ServeFlags {
    serve(&format!("ingeststore {line}"))
}

fn storage(line: &str) -> StorageFlags {
    serve(&format!("store {line}")).storage.expect("a store's flags")
}

fn ingest(line: &str) -> IngestFlags {
    serve(&format!("ingest {line}")).ingest.expect("an ingester's flags")
}

#[test]
fn flags_are_read_in_the_style_of_go_and_of_gnu() {
    for line in ["-store.path x", "-store.path=x", "--store.path=x", "--store.path x"] {
        assert_eq!(storage(line).path.to_str(), Some("x"), "{line}");
    }
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let flags = ingeststore("");
    assert_eq!(flags.server.api.to_string(), "0.0.0.0:7650");
    assert_eq!(flags.server.cluster.to_string(), "0.0.0.0:7659");
    assert_eq!((flags.server.filesystem, flags.server.peers.len()), (Filesystem::Real, 0));
    assert_eq!((flags.server.key_file.as_ref(), flags.debug), (None, false));
    let ingest = ingest("");
    assert_eq!((ingest.bulk.to_string().as_str(), ingest.max_connections), ("0.0.0.0:7653", 16_384));
    assert_eq!((ingest.flush_size, ingest.flush_age), (Bytes(16 << 20), Duration::from_secs(3)));
    let storage = storage("");
    assert_eq!((storage.target_size, storage.retain), (Bytes(128 << 20), Duration::from_secs(7 * 86_400)));
    assert_eq!((storage.max_size, storage.consumers), (None, 1));
    assert_eq!(storage.seal_age, Some(Duration::from_secs(600)));
    assert_eq!((flags.ingest, flags.storage), (Some(ingest), Some(storage)));
}

#[test]
fn a_server_of_one_tier_takes_the_flags_of_that_tier_alone() {
    assert_eq!((serve("ingest").kind(), serve("store").kind()), (PeerKind::Ingest, PeerKind::Store));
    assert_eq!((serve("ingest").storage, serve("store").ingest), (None, None));
    assert_eq!(ingeststore("").kind(), PeerKind::IngestStore);
    assert!(refusal("ingest -store.path x").contains("unknown flag \"-store.path\""));
    assert!(refusal("store -ingest.path x").contains("unknown flag \"-ingest.path\""));
    let key_file = serve("store -cluster.key-file /etc/oklog/key").server.key_file;
    assert_eq!(key_file.as_deref(), Some(std::path::Path::new("/etc/oklog/key")));
}

#[test]
fn of_a_flag_given_twice_the_last_wins_and_repeatable_ones_collect() {
    let flags = ingeststore("-store.path a -peer one -debug -store.path b -peer two:1 -debug=false");
    assert_eq!(flags.storage.as_ref().and_then(|storage| storage.path.to_str()), Some("b"));
    let peers: Vec<String> = flags.server.peers.iter().map(Address::to_string).collect();
    assert_eq!(peers, ["one:7659", "two:1"]);
    assert!(!flags.debug);
    assert!(ingeststore("-debug=false -debug").debug);
    assert!(ingeststore("--debug=T").debug);
}

#[test]
fn the_replication_factor_is_1_without_peers_unless_it_is_set() {
    for command in ["ingeststore", "store"] {
        let replicas = |line| serve(&format!("{command} {line}")).replicas();
        assert_eq!(replicas(""), Some(1));
        assert_eq!(replicas("-peer a"), Some(2));
        assert_eq!(replicas("-store.segment-replication-factor 2"), Some(2));
        assert_eq!(replicas("-peer a -store.segment-replication-factor=3"), Some(3));
    }
    assert_eq!(serve("ingest -peer a").replicas(), None, "an ingester makes no copies");
}

#[test]
fn an_advertised_address_without_port_has_that_of_the_cluster_flag() {
    let advertised = |line| ingeststore(line).server.advertise.map(|address| address.to_string());
    assert_eq!(advertised("-cluster udp://:8000 -cluster.advertise-addr 10.0.0.1"), Some("10.0.0.1:8000".into()));
    assert_eq!(advertised("-cluster.advertise-addr n1"), Some("n1:7659".into()));
    assert_eq!(advertised(""), None);
}

#[test]
fn flags_end_at_the_first_operand() {
    match read("forward -prefix a -prefix b -mode durable host1 -mode fast") {
        Ok(Request::Forward(flags)) => {
            assert_eq!(flags.prefixes, ["a", "b"]);
            assert_eq!(flags.mode, Mode::Durable);
            assert_eq!(flags.addresses, ["host1", "-mode", "fast"]);
        }
        other => panic!("{other:?}"),
    }
    let refused = refusal("query foo -q x");
    assert_eq!(refused, "oklog query: unexpected operand \"foo\", flags come before operands");
    assert_eq!(refusal("forward"), "oklog forward: no address given, see 'oklog help forward'");
}

#[test]
fn one_letter_flags_and_empty_values_are_read() {
    let args = ["query", "-v", "-n", "5", "-q", "", "--q=a=b", "-time"].map(str::to_string);
    match Request::read(&args) {
        Ok(Request::Query(flags)) => {
            assert!(flags.verbose && flags.time && !flags.ulid);
            assert_eq!((flags.limit, flags.q.as_str()), (Some(5), "a=b"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn help_is_found_in_all_its_forms() {
    for line in ["query -h", "query -help", "query --help", "query -q x -h", "help query"] {
        let found = matches!(read(line), Ok(Request::Help(Some(command))) if command.name == "query");
        assert!(found, "{line}");
    }
    for line in ["help", "-h", "--help"] {
        assert_eq!(read(line), Ok(Request::Help(None)), "{line}");
    }
    assert_eq!(read("version"), Ok(Request::Version));
    assert_eq!(read(""), Err(Refusal::NoCommand));
}

#[test]
fn what_was_mistyped_is_named_and_the_nearest_suggested() {
    let cases = [
        ("qeury", "oklog: unknown command \"qeury\", did you mean query?"),
        ("ingets", "oklog: unknown command \"ingets\", did you mean ingest?"),
        ("xyzzy", "oklog: unknown command \"xyzzy\", see 'oklog help'"),
        ("query -regx", "oklog query: unknown flag \"-regx\", did you mean -regex?"),
        ("query --zzz", "oklog query: unknown flag \"-zzz\", see 'oklog help query'"),
        ("query -=x", "oklog query: unknown flag \"-\", see 'oklog help query'"),
        ("query -q", "oklog query: the flag -q needs a value"),
        ("help qury", "oklog: unknown command \"qury\", did you mean query?"),
    ];
    for (line, expected) in cases {
        assert_eq!(refusal(line), expected, "{line}");
    }
}

#[test]
fn bad_values_are_refused_with_flag_value_and_what_would_do() {
    let cases = [
        ("query -regex=maybe", "bad value \"maybe\" for -regex, expected true or false"),
        ("query -n 0", "bad value \"0\" for -n, expected at least 1"),
        ("query -n +1", "bad value \"+1\" for -n, expected a whole number"),
        ("query -from yesterday", "bad value \"yesterday\" for -from, expected a time such as"),
        ("query -store ftp://x", "bad value \"ftp://x\" for -store, expected an address such as"),
        ("ingeststore -filesystem disk", "\"disk\" for -filesystem, expected real or virtual or nop"),
        ("ingeststore -ingest.segment-flush-age 3x", "\"3x\" for -ingest.segment-flush-age, expected a duration"),
        ("ingeststore -ingest.segment-flush-age 0", "expected at least 1ms"),
        ("ingeststore -ingest.max-record-size 65MiB", "\"65MiB\" for -ingest.max-record-size, expected 1 to 67108864"),
        ("ingeststore -ingest.max-record-size 0", "expected 1 to 67108864"),
        ("ingeststore -store.path=", "bad value \"\" for -store.path, expected a path"),
        ("ingeststore -store.path ./data//ingest -ingest.path data/ingest/.", "another directory than that of"),
        ("ingeststore -peer host:0", "\"host:0\" for -peer, expected an address"),
        ("forward -mode bulk h", "bad value \"bulk\" for -mode, expected fast or durable"),
    ];
    for (line, expected) in cases {
        let refused = refusal(line);
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn every_default_is_a_value_that_its_flag_takes() {
    for flag in COMMANDS.iter().flat_map(Command::flags) {
        if let Some(default) = flag.default {
            assert_eq!(judge(flag, default), Ok(()), "-{}", flag.name);
        }
    }
}

#[test]
fn every_flag_that_can_have_a_bad_value_refuses_it() {
    for command in COMMANDS {
        for flag in command.flags().filter(|flag| flag.kind != Kind::Text) {
            let operands = if command.name == "forward" { " host" } else { "" };
            let bad = if flag.kind == Kind::Path { "" } else { "!" };
            let refused = refusal(&format!("{} -{}={bad}{operands}", command.name, flag.name));
            assert!(refused.contains(&format!("for -{}, expected", flag.name)), "{}: {refused}", command.name);
        }
    }
}

#[test]
fn no_arguments_make_the_parser_panic() {
    let flags: Vec<String> = COMMANDS.iter().flat_map(Command::flags).map(|flag| flag.name.to_string()).collect();
    let pieces = ["-", "--", "=", "é", "0", "1", ".", ":", "[", "x", "\u{1}", "://", "h", "m", "9999999999999999999"];
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let mut pick = |count: usize| usize::try_from(dice.below(count as u64)).unwrap();
        let mut args = vec![COMMANDS[pick(COMMANDS.len())].name.to_string()];
        for _ in 0..pick(6) {
            let mut arg = if pick(2) == 0 { format!("-{}=", flags[pick(flags.len())]) } else { String::new() };
            for _ in 0..pick(5) {
                arg.push_str(pieces[pick(pieces.len())]);
            }
            args.push(arg);
        }
        if let Err(refused) = Request::read(&args) {
            assert!(!refused.to_string().contains(|c: char| c.is_control()), "seed {seed}: {refused}");
        }
    }
}

#[test]
fn arguments_that_are_not_text_are_shown_as_nearly_as_can_be() {
    use std::os::unix::ffi::OsStringExt;
    let refused = as_text(vec![OsString::from_vec(b"-q=\xff".to_vec())]).expect_err("refused");
    assert_eq!(refused.to_string(), "oklog: the argument \"-q=\u{fffd}\" is not valid UTF-8");
}

#[test]
fn sealing_is_on_unless_it_is_turned_off() {
    let age = |line: &str| storage(line).seal_age.map(|age| age.as_secs());
    assert_eq!(age("-store.seal"), Some(600));
    assert_eq!(age("-store.seal=true -store.seal-age=1h"), Some(3_600));
    assert_eq!(age("-store.seal-age=0s"), Some(0));
    assert_eq!(age("-store.seal=false -store.seal-age=1h"), None);
    assert_eq!(age("-store.seal=false -store.seal"), Some(600), "the last one wins");
}
