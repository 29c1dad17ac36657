//! `oklog cat` as a script sees it: files a node has written, damaged ones, pipes that close.

use crate::harness::command::{bash, files_of, run};
use crate::harness::logs::numbered;
use crate::harness::node::Role;
use crate::harness::{Node, Port, oklog, wait_until};
use oklog::record::id::Id;
use oklog::record::stored;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn cat_prints_what_a_node_has_on_disk_in_either_tier() {
    let mut node = Node::start_as(Role::Ingest, &[]);
    node.send(Port::Fast, &numbered("waiting", 1_000));
    node.kill9();
    let left: Vec<PathBuf> =
        [".active", ".flushed"].iter().flat_map(|end| files_of(&node.dir().join("ingest"), end)).collect();
    let printed = run(oklog([&["cat".into()][..], &left].concat()), b"");
    assert_eq!((printed.status, printed.stderr.as_str()), (Some(0), ""));
    let mut found: Vec<&[u8]> = printed.stdout.split_inclusive(|byte| *byte == b'\n').collect();
    found.sort_unstable();
    let texts: Vec<&[u8]> = found.iter().map(|line| &line[27..]).collect();
    assert!(texts.concat() == numbered("waiting", 1_000));

    let node = Node::start_quick(&[]);
    node.send(Port::Fast, &numbered("kept", 1_000));
    node.wait_consumed();
    let store = node.dir().join("store");
    wait_until("the store has one segment", || files_of(&store, ".flushed").len() == 1);
    let printed = run(oklog(["cat".as_ref(), files_of(&store, ".flushed")[0].as_os_str()]), b"");
    assert_eq!((printed.status, printed.stdout), (Some(0), node.query(&[]).body));
}

#[test]
fn cat_prints_what_is_whole_says_what_is_not_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let record = |n: u32| format!("01ARZ3NDEKTSV4RRFFQ69G5FA{n} text {n}\n");
    let (torn, sound) = (dir.path().join("torn.active"), dir.path().join("sound"));
    fs::write(&torn, record(1) + &record(2) + "01ARZ3NDEKTSV4").unwrap();
    fs::write(&sound, record(0)).unwrap();
    let args = ["cat".into(), torn.clone(), dir.path().to_path_buf(), "none".into(), sound, "-".into()];
    let finished = run(oklog(&args), record(3).as_bytes());
    assert_eq!(finished.stdout, (record(1) + &record(2) + &record(0) + &record(3)).into_bytes());
    let said: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!((finished.status, said.len()), (Some(1), 3), "{said:?}");
    assert!(
        said[0].starts_with(&format!("oklog cat: {}: the record at byte 68 has no LF", torn.display())),
        "{said:?}"
    );
    assert!(said[1].contains("Is a directory") && said[2].contains("none: No such file"), "{said:?}");
    let piped = bash(&format!("\"$OKLOG\" cat <(cat {})", torn.display()));
    assert_eq!(piped.status, Some(1));
    assert!(piped.stderr.contains("it is a pipe"), "{}", piped.stderr);
}

#[test]
fn cat_into_head_ends_quietly_and_onto_a_full_disk_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    let (mut content, text) = (Vec::new(), [b'x'; 1_000]);
    (0..5_000).for_each(|n| stored::write(&mut content, Id(n), &text));
    fs::write(&file, &content).unwrap();
    let finished = bash(&format!("\"$OKLOG\" cat {} | head -n 1; exit ${{PIPESTATUS[0]}}", file.display()));
    assert_eq!(finished.stdout, content[..1_028]);
    assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""));
    if Path::new("/dev/full").exists() {
        let full = bash(&format!("\"$OKLOG\" cat {} > /dev/full", file.display()));
        full.assert_one_sentence(1, &["printing records"]);
    }
}
