//! Tools that people have: their lines arrive.

use crate::harness::command::{bash, has_tool};
use crate::harness::logs::{assert_same_lines, files, numbered};
use crate::harness::{Node, Port, wait_until};

#[test]
fn nc_delivers_a_file_to_either_port() {
    if !has_tool("nc", "netcat-openbsd") {
        return;
    }
    let node = Node::start_quick(&[]);
    let (dir, file) = (tempfile::tempdir().unwrap(), &files()[0]);
    let path = dir.path().join("app.log");
    std::fs::write(&path, &file.bytes).unwrap();
    for port in [Port::Fast, Port::Durable] {
        let sent = bash(&format!("nc -N 127.0.0.1 {} < {}", node.number(port), path.display()));
        assert_eq!((sent.status, sent.stderr.as_str()), (Some(0), ""), "{port:?}");
    }
    assert_same_lines(&node.everything(), &file.lines().repeat(2), "by nc, twice");
}

#[test]
fn logger_delivers_its_messages() {
    if !has_tool("logger", "bsdutils") {
        return;
    }
    let node = Node::start_quick(&[]);
    for number in 0..3 {
        let port = node.number(Port::Fast);
        let sent = bash(&format!("logger -n 127.0.0.1 -P {port} -T -t shop 'order {number} is 100% done'"));
        assert_eq!((sent.status, sent.stderr.as_str()), (Some(0), ""));
    }
    for number in 0..3 {
        let wanted = format!("order {number} is 100% done");
        wait_until(&format!("{wanted:?} is found"), || node.query(&[("q", &wanted)]).stored().count() == 1);
    }
    let all = node.query(&[]);
    assert_eq!(all.stored().count(), 3, "one record for each message: {}", all.text());
}

#[test]
fn a_bash_redirection_delivers_its_lines() {
    if !has_tool("bash", "bash") {
        return;
    }
    let node = Node::start_quick(&[]);
    let port = node.number(Port::Fast);
    let sent = bash(&format!("for n in $(seq 0 999); do echo \"bash $n\"; done > /dev/tcp/127.0.0.1/{port}"));
    assert_eq!((sent.status, sent.stderr.as_str()), (Some(0), ""));
    wait_until("all have arrived", || node.query(&[]).stored().count() == 1_000);
    assert_same_lines(&node.everything(), &numbered("bash", 1_000), "by bash");
}
