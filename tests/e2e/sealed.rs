//! `oklog cat`, `oklog query -path` and `oklog verify` on what a store has sealed, sound and damaged.

use crate::harness::command::{Finished, run};
use crate::harness::logs::numbered;
use crate::harness::{Node, Port, oklog, wait_for};
use std::fs;
use std::path::{Path, PathBuf};

/// A node whose store has sealed all that it was sent, and the file.
fn sealing() -> (Node, PathBuf) {
    let node = Node::start_quick(&["-store.seal-age=1s"]);
    node.send(Port::Fast, &numbered("some words that come again and again", 40_000));
    node.wait_consumed();
    let store = node.dir().join("store");
    let sealed = wait_for("one sealed segment and no other", || {
        let names = |end: &str| -> Vec<PathBuf> {
            let entries = fs::read_dir(&store).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
            entries.filter(|path| path.to_string_lossy().ends_with(end)).collect()
        };
        let others = [".flushed", ".reading", ".active"].iter().map(|end| names(end).len()).sum::<usize>();
        names(".sealed").pop().filter(|_| others == 0 && names(".sealed").len() == 1)
    });
    (node, sealed)
}

fn command(args: &[&str], path: &Path) -> Finished {
    run(oklog([args, &[path.to_str().expect("a path in UTF-8")]].concat()), b"")
}

#[test]
fn what_is_sealed_is_printed_searched_and_verified_and_what_is_damaged_in_it_is_said() {
    let (mut node, sealed) = sealing();
    let store = node.dir().join("store");
    let all = node.query(&[]).body;
    let printed = command(&["cat"], &sealed);
    assert_eq!((printed.status, printed.stderr.as_str()), (Some(0), ""));
    assert!(printed.stdout == all, "{} of {} bytes", printed.stdout.len(), all.len());
    let found = command(&["query", "-ulid", "-path"], &store);
    assert!((found.status, found.stdout == all) == (Some(0), true), "{}", found.stderr);
    let needle = command(&["query", "-q", "again and again 31337", "-path"], node.dir());
    assert_eq!(needle.stdout, b"some words that come again and again 31337\n", "{}", needle.stderr);
    assert_eq!(command(&["query", "-q", "nowhere at all", "-path"], &store).status, Some(1));
    node.stop();
    let sound = command(&["verify"], &store);
    assert_eq!(sound.status, Some(0), "{}", String::from_utf8_lossy(&sound.stdout));

    // One bit of the first block, and then of the index alone.
    let content = fs::read(&sealed).unwrap();
    let mut bad = content.clone();
    bad[10_000] ^= 1;
    fs::write(&sealed, &bad).unwrap();
    let report = command(&["verify"], &store);
    let said = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.status == Some(1) && said.contains("are lost: the block from byte 0 to "), "{said}");
    let printed = command(&["cat"], &sealed);
    printed.assert_one_sentence(1, &[sealed.to_str().unwrap(), "block 0 at byte 0 cannot be unpacked"]);
    assert!(all.ends_with(&printed.stdout) && printed.stdout.len() > all.len() / 2);
    let found = command(&["query", "-path"], &store);
    found.assert_one_sentence(3, &["records may be missing", sealed.to_str().unwrap()]);
    let mut bad = content;
    let at = bad.len() - 100;
    bad[at] ^= 1;
    fs::write(&sealed, &bad).unwrap();
    let report = command(&["verify"], &store);
    let said = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.status == Some(1) && said.contains("its index is damaged, which costs speed alone"), "{said}");
    let found = command(&["query", "-ulid", "-path"], &store);
    assert!(found.status == Some(0) && found.stdout == all, "{}", found.stderr);
    assert!(found.stderr.contains("costs time alone") && found.stderr.lines().count() == 1, "{}", found.stderr);
}
