//! How much a relay passes on in a day, in all and for each node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shoal_link::Meter;
use shoal_wire::NodeId;

/// Length of a day, in seconds; days begin at midnight UTC.
const DAY_S: u64 = 24 * 3600;
/// Nodes that are counted in a day; more than that many send nothing until the next.
const NODES_MAX: usize = 65_536;

/// The most that is relayed in a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayBudget {
    /// In all, in bytes; `None` for no bound.
    pub bytes_per_day: Option<u64>,
    /// For one node and all whom it gave a pass, in bytes; `None` for no bound.
    pub node_bytes_per_day: Option<u64>,
}

/// What was relayed today.
#[derive(Debug)]
pub(crate) struct Spending {
    budget: RelayBudget,
    clock: Clock,
    today: Mutex<Today>,
}

#[derive(Debug, Default)]
struct Today {
    day: u64,
    bytes: u64,
    by_node: BTreeMap<NodeId, u64>,
}

impl Spending {
    pub(crate) fn new(budget: RelayBudget, clock: Clock) -> Self {
        Self {
            budget,
            clock,
            today: Mutex::default(),
        }
    }

    /// Whether nobody may send anything before tomorrow.
    pub(crate) fn is_used_up(&self) -> bool {
        let today = self.today(self.clock.now_s());
        self.budget
            .bytes_per_day
            .is_some_and(|most| today.bytes >= most)
    }

    /// Whether `node` may send something before tomorrow.
    pub(crate) fn has_room(&self, node: Option<&NodeId>) -> bool {
        if self.is_used_up() {
            return false;
        }
        let (Some(node), Some(most)) = (node, self.budget.node_bytes_per_day) else {
            return true;
        };
        let today = self.today(self.clock.now_s());
        match today.by_node.get(node) {
            Some(spent) => *spent < most,
            None => today.by_node.len() < NODES_MAX,
        }
    }

    /// Counts bytes of `node`, or of nobody in particular; `false` where they are too many. What is
    /// refused once counts as spent, so that nobody goes on with the smaller ones.
    fn spend(&self, node: Option<&NodeId>, bytes: u64, now_s: u64) -> bool {
        let mut today = self.today(now_s);
        let today = &mut *today;
        if let (Some(node), Some(most)) = (node, self.budget.node_bytes_per_day) {
            if !today.by_node.contains_key(node) && today.by_node.len() >= NODES_MAX {
                return false;
            }
            let spent = today.by_node.entry(*node).or_default();
            if !add(spent, bytes, most) {
                return false;
            }
        }
        let most = self.budget.bytes_per_day.unwrap_or(u64::MAX);
        let was_used_up = today.bytes >= most;
        let has_room = add(&mut today.bytes, bytes, most);
        if !has_room && !was_used_up {
            tracing::warn!(
                bytes = most,
                "the relay has passed on as much as it may in a day"
            );
        }
        has_room
    }

    fn today(&self, now_s: u64) -> MutexGuard<'_, Today> {
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        let day = now_s / DAY_S;
        if today.day != day {
            *today = Today {
                day,
                ..Today::default()
            };
        }
        today
    }
}

/// Adds up to `most`, and tells whether all of it fitted.
fn add(spent: &mut u64, bytes: u64, most: u64) -> bool {
    let sum = spent.saturating_add(bytes);
    *spent = sum.min(most);
    sum <= most
}

/// Where the bytes of one connection count.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) spending: Arc<Spending>,
    /// Whose they are; the relay's own count in all only.
    pub(crate) node: Option<NodeId>,
}

impl Meter for Account {
    fn take(&self, bytes: u64) -> bool {
        let now_s = self.spending.clock.now_s();
        self.spending.spend(self.node.as_ref(), bytes, now_s)
    }
}

/// The system's time at the start, and then the time that has gone by, so that a clock that is set
/// changes nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    started_at_s: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: Instant::now(),
            started_at_s: since_epoch.map_or(0, |time| time.as_secs()),
        }
    }

    pub(crate) fn now_s(&self) -> u64 {
        self.started_at_s + self.started.elapsed().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spending(in_all: Option<u64>, of_node: Option<u64>) -> Spending {
        let budget = RelayBudget {
            bytes_per_day: in_all,
            node_bytes_per_day: of_node,
        };
        Spending::new(budget, Clock::new())
    }

    fn node(byte: u8) -> Option<NodeId> {
        Some(NodeId::new([byte; 32]))
    }

    #[test]
    fn a_node_that_spent_its_own_leaves_the_others_theirs() {
        let spending = spending(Some(250), Some(100));
        let spend = |who: u8, bytes| spending.spend(node(who).as_ref(), bytes, 0);
        assert!(spend(1, 60) && spend(1, 40) && !spend(1, 1));
        assert!(spend(2, 100), "what one was refused is not counted in all");
        assert!(spend(3, 50) && !spend(3, 1), "200 and 50 are all");
        assert!(!spend(4, 1));
        assert!(spending.spend(node(4).as_ref(), 1, DAY_S), "a new day");
    }

    #[test]
    fn what_was_refused_once_is_used_up() {
        let spending = spending(Some(100), None);
        assert!(spending.spend(None, 99, spending.clock.now_s()));
        assert!(!spending.is_used_up() && spending.has_room(node(1).as_ref()));
        assert!(!spending.spend(None, 2, spending.clock.now_s()));
        assert!(spending.is_used_up() && !spending.has_room(node(1).as_ref()));
    }

    #[test]
    fn without_a_budget_nothing_is_refused() {
        let spending = spending(None, None);
        assert!((0..100).all(|byte| spending.spend(node(byte).as_ref(), u64::MAX / 2, 0)));
        assert!(!spending.is_used_up() && spending.has_room(node(1).as_ref()));
    }

    #[test]
    fn more_nodes_than_are_counted_send_nothing() {
        let spending = spending(None, Some(1));
        let numbered = |number: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId::new(id)
        };
        for number in 0..NODES_MAX as u64 {
            assert!(spending.spend(Some(&numbered(number)), 1, 0));
        }
        assert!(!spending.spend(Some(&numbered(u64::MAX)), 1, 0));
    }
}
