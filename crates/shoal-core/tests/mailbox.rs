//! Mailboxes on a virtual clock: short numbers, budgets, ends.

#![expect(clippy::disallowed_methods, reason = "a test has a clock")]
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use shoal_core::mailbox::{MailboxError, Mailboxes, OwnerId};
use shoal_wire::Nameplate;

/// What one network may claim in a burst, all together, and what one owner may keep.
const NETWORK_BURST: u32 = 10;
const TOTAL_BURST: u32 = 300;
const OF_ONE_OWNER_MAX: usize = 16;

struct World {
    boxes: Mailboxes<u32>,
    random: SmallRng,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            boxes: Mailboxes::default(),
            random: SmallRng::seed_from_u64(7),
            now: Instant::now(),
        }
    }

    fn open(&mut self, owner: u64, wanted: Option<u32>) -> Result<u32, MailboxError> {
        let wanted = wanted.and_then(Nameplate::new);
        let hour = Duration::from_secs(3600);
        let place = (&mut self.random, self.now);
        let opened = self.boxes.handle_open(OwnerId(owner), wanted, hour, place);
        opened.map(Nameplate::number)
    }

    fn claim(&mut self, plate: u32, network: u32) -> Result<u64, MailboxError> {
        let plate = Nameplate::new(plate).unwrap();
        let claimed = self.boxes.handle_claim(plate, network, self.now);
        claimed.map(|owner| owner.0)
    }
}

#[test]
fn nameplates_are_short_distinct_and_come_back_to_whom_they_belonged() {
    let mut world = World::new();
    let plates: Vec<u32> = (0..200)
        .map(|owner| world.open(owner, None).unwrap())
        .collect();
    let mut distinct = plates.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 200);
    assert!(plates[0] < 10 && plates.iter().all(|plate| *plate < 10_000));
    world
        .boxes
        .handle_close(OwnerId(1), Nameplate::new(plates[0]).unwrap());
    assert_eq!(world.claim(plates[0], 1), Ok(0), "another's is not closed");
    world
        .boxes
        .handle_close(OwnerId(0), Nameplate::new(plates[0]).unwrap());
    assert_eq!(world.open(900, Some(plates[0])), Ok(plates[0]));
    assert_ne!(world.open(901, Some(plates[0])), Ok(plates[0]));
}

#[test]
fn a_guesser_is_slowed_down_and_others_are_not() {
    let mut world = World::new();
    let plate = world.open(1, None).unwrap();
    for _ in 0..NETWORK_BURST {
        assert_eq!(world.claim(plate + 1, 7), Err(MailboxError::Unknown));
    }
    let Err(MailboxError::TooMany { retry_after }) = world.claim(plate, 7) else {
        panic!("one network has a budget");
    };
    assert_eq!(world.claim(plate, 8), Ok(1));
    world.now += retry_after;
    assert_eq!(world.claim(plate, 7), Ok(1));
    assert!(world.claim(plate, 7).is_err());
}

#[test]
fn many_networks_together_have_a_budget_too() {
    let mut world = World::new();
    let plate = world.open(1, None).unwrap();
    let allowed = (0..10 * TOTAL_BURST).filter(|network| world.claim(plate, *network).is_ok());
    assert_eq!(allowed.count(), TOTAL_BURST as usize);
}

#[test]
fn a_mailbox_ends_with_its_time_and_an_owner_has_only_so_many() {
    let mut world = World::new();
    let plate = world.open(1, None).unwrap();
    for _ in 1..OF_ONE_OWNER_MAX {
        world.open(1, None).unwrap();
    }
    assert_eq!(world.open(1, None), Err(MailboxError::Full));
    world.now += Duration::from_secs(3600);
    assert_eq!(world.claim(plate, 1), Err(MailboxError::Unknown));
    assert!(world.boxes.is_empty());
    assert!(world.open(1, None).is_ok());
}
