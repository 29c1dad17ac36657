use super::*;
use crate::cluster::State::{Alive, Dead, Suspect};
use crate::cluster::view::tests::{claim, me, table};
use crate::cluster::view::view_of;
use crate::cluster::{Fixed, Load};

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
fn forgetting_is_for_nodes_of_the_cluster_and_looking_is_for_all() {
    let cluster: Arc<dyn Cluster> = Arc::new(Fixed::alone(me()));
    let access: Vec<_> = routes(&cluster, &Metrics::default()).iter().map(|r| (r.path, r.methods, r.access)).collect();
    assert!(access.contains(&(path::CLUSTER_FORGET, &["POST"], Access::Peers)));
    assert!(access.contains(&(path::STORE_CLUSTER_STATE, &["GET"], Access::Open)));
}
