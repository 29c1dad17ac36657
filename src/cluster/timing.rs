//! How long the membership protocol waits, how often it asks and tells, and how many at a time.

use std::time::Duration;

/// The rhythm of a node. All nodes of a cluster should have the same.
#[derive(Clone, PartialEq, Debug)]
pub struct Timing {
    /// What suspicions and last questions are counted in.
    pub period: Duration,
    /// From one probe to the next, while this node is healthy.
    pub probe: Duration,
    /// A probe that is not answered within this time has failed, while this node is healthy.
    pub within: Duration,
    /// One in so many probes goes to a member chosen by chance; the others go to the next one in the order of ids, so
    /// that each member is asked regularly by another. 1: all by chance.
    pub by_chance: u32,
    /// When a probe pings its target, counted from its start. More than one ping takes loss for what it is.
    pub pings: Vec<Duration>,
    /// When a probe asks helpers, counted from its start.
    pub helps: Vec<Duration>,
    /// How many helpers are asked.
    pub helpers: usize,
    /// A suspicion lasts at least this many periods, times the decimal logarithm of the number of members.
    pub suspicion: f64,
    /// A suspicion that nobody confirms lasts this many times longer.
    pub patience: f64,
    /// How many confirmations bring a suspicion down to its shortest.
    pub confirmations: u32,
    /// How often a suspect is pinged before it is declared dead; 0 declares at once.
    pub verify: u32,
    /// From one round of gossip to the next, while there is something to tell.
    pub gossip: Duration,
    /// How many are told in one round.
    pub fanout: usize,
    /// A claim is sent at most this many times the decimal logarithm of the number of members, rounded up, and
    /// [`Timing::retransmit_more`].
    pub retransmit: u32,
    /// Added to that logarithm. Without it three nodes that lose a quarter of all datagrams miss news, and with 1 one node of
    /// a hundred missed one death in 300 (simulated), and found out by itself six seconds later.
    pub retransmit_more: u32,
    /// The dead are told too for this long.
    pub tell_the_dead: Duration,
    /// From one exchange of the whole table to the next, in a small cluster.
    pub exchange: Duration,
    /// Whether an exchange sends the whole table in place of what differs.
    pub whole_exchange: bool,
    /// From one try to reach a dead node, and to have the peers named to us resolved, to the next.
    pub rejoin: Duration,
    /// The same while no other node has been heard.
    pub rejoin_alone: Duration,
    /// For how long the dead without records, and the forgotten, are kept in mind, so that nobody brings them back.
    pub tombstone: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let ms = Duration::from_millis;
        Timing {
            period: ms(1_000),
            probe: ms(1_650),
            within: ms(800),
            by_chance: 3,
            pings: vec![ms(0), ms(167), ms(333)],
            helps: vec![ms(420), ms(570)],
            helpers: 3,
            suspicion: 2.75,
            patience: 2.5,
            confirmations: 2,
            verify: 10,
            gossip: ms(200),
            fanout: 3,
            retransmit: 4,
            retransmit_more: 2,
            tell_the_dead: ms(30_000),
            exchange: ms(30_000),
            whole_exchange: false,
            rejoin: ms(30_000),
            rejoin_alone: ms(1_000),
            tombstone: Duration::from_secs(24 * 3_600),
        }
    }
}

impl Timing {
    /// What a common implementation (hashicorp/memberlist, `DefaultLANConfig`) does, to compare with: one ping for each probe,
    /// suspicions that end without a further question, the whole table in each exchange.
    pub fn textbook() -> Timing {
        let ms = Duration::from_millis;
        Timing {
            probe: ms(1_000),
            within: ms(1_000),
            by_chance: 1,
            pings: vec![ms(0)],
            helps: vec![ms(500)],
            suspicion: 4.0,
            patience: 6.0,
            verify: 0,
            retransmit_more: 0,
            whole_exchange: true,
            ..Timing::default()
        }
    }
}
