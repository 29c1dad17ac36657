use super::*;
use crate::cluster::State::{Alive, Dead, Suspect};
use crate::cluster::view::tests::{claim, me, table};
use crate::cluster::view::view_of;
use crate::cluster::{Fixed, Load};
use crate::http::{HttpServer, Limits};
use crate::world::crew::{Crew, Stop};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn each_tier_shows_its_peers_with_what_is_believed_of_them() {
    let mut all = table(&[claim(2, 12, 22, 1, Suspect), claim(3, 0, 13, 1, Alive), claim(4, 14, 0, 1, Dead)]);
    all[0].1 = Some(Load { waiting: 5, stored: 6 });
    let view = view_of(&me(), &all);
    let stores = json(&view, PeerKind::stores);
    let expected = format!(
        "\n  {{\"type\": \"ingeststore\", \"api\": \"10.0.0.2:7650\", \"store_id\": \"{:032x}\", \"ingest_id\": \"{:032x}\", \
         \"state\": \"suspect\", \"me\": false, \"gossip\": \"10.0.0.2:7659\", \"node\": \"{:032x}\", \"replicas\": 2, \
         \"load\": {{\"waiting\": 5, \"stored\": 6}}}},",
        12, 22, 2
    );
    assert!(stores.contains(&expected), "{stores}");
    assert_eq!(stores.matches("\"me\": true").count(), 1, "{stores}");
    assert_eq!(stores.matches("\"state\": \"silent\"").count(), 1, "{stores}");
    assert_eq!(stores.lines().count(), 5, "{stores}");
    let ingesters = json(&view, PeerKind::ingests);
    assert_eq!(ingesters.matches("\"node\"").count(), 2, "{ingesters}");
    assert!(ingesters.contains("\"store_id\": \"\""), "{ingesters}");
}

#[test]
fn no_web_page_can_have_a_node_forgotten() {
    let cluster: Arc<dyn Cluster> = Arc::new(Fixed(Arc::new(view_of(&me(), &table(&[claim(2, 12, 0, 1, Dead)])))));
    let (metrics, crew, stop) = (Arc::new(Metrics::default()), Crew::default(), Stop::default());
    let listener = crate::world::socket::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let routes = routes(&cluster, &metrics);
    let server = HttpServer::start(listener, routes, Limits::default(), None, metrics, crew.clone(), stop.clone());
    let address = server.unwrap().local_addr();
    let status = |header: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let target = format!("{}?name=10.0.0.2:7650", path::CLUSTER_FORGET);
        write!(stream, "POST {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_string()
    };
    assert_eq!(status("Origin: http://elsewhere.example\r\n"), "403");
    assert_eq!(status("Origin: null\r\n"), "403");
    assert_eq!(status(""), "200");
    stop.raise();
    assert_eq!(crew.join_all(Duration::from_secs(20)).panicked, Vec::<String>::new());
}

#[test]
fn forgetting_is_for_nodes_of_the_cluster_and_looking_is_for_all() {
    let cluster: Arc<dyn Cluster> = Arc::new(Fixed::alone(me()));
    let access: Vec<_> = routes(&cluster, &Metrics::default()).iter().map(|r| (r.path, r.methods, r.access)).collect();
    assert!(access.contains(&(path::CLUSTER_FORGET, &["POST"], Access::Peers)));
    assert!(access.contains(&(path::STORE_CLUSTER_STATE, &["GET"], Access::Open)));
}
