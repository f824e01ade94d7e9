//! Mailboxes: which nameplate belongs to whom, for how long, and how often it may be asked for.
//!
//! A mailbox knows a nameplate and its owner, nothing of the code's words. It is found by anyone
//! who names it, so what is bounded is asking: each network has a budget of claims that refills
//! slowly, all networks together have one, and each mailbox has one for its whole life. A claim of
//! a nameplate that nobody has costs as much as any other, so that looking for mailboxes is no
//! cheaper than guessing at one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use shoal_wire::Nameplate;
use shoal_wire::limits::MAILBOX_MAX_S;

/// Mailboxes at once: each is some hundred bytes.
const MAILBOXES_MAX: usize = 10_000;
/// Mailboxes of one owner at once.
const OF_ONE_OWNER_MAX: usize = 16;
/// Claims that one network may make in a burst: a few people with a few slips of the tongue.
const NETWORK_BURST: u32 = 10;
/// Time after which a network may make one claim more.
const NETWORK_REFILL: Duration = Duration::from_secs(6);
/// Claims that all networks together may make in a burst.
const TOTAL_BURST: u32 = 300;
/// Time after which all networks together may make one claim more.
const TOTAL_REFILL: Duration = Duration::from_millis(100);
/// Claims of one mailbox in its whole life: receivers who come back count, guessers too.
const CLAIMS_OF_ONE_MAX: u32 = 1_000;
/// Networks that are remembered; those with a full budget are forgotten first.
const NETWORKS_MAX: usize = 20_000;
/// Draws of a number before the next larger range is used.
const DRAWS: usize = 8;

/// An owner of mailboxes, by a number that the driver chooses: one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub u64);

/// Why there is no mailbox, or none for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// Nobody has the nameplate.
    #[error("no code with this number is waiting")]
    Unknown,
    /// A budget is used up.
    #[error("too many codes were tried, wait a little")]
    TooMany {
        /// When the next try may be made.
        retry_after: Duration,
    },
    /// There are as many as there may be.
    #[error("too many codes are waiting here")]
    Full,
}

#[derive(Debug)]
struct Mailbox {
    owner: OwnerId,
    expires_at: Instant,
    claims_left: u32,
}

/// A budget that refills by one after each interval.
#[derive(Debug, Clone, Copy)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn full(burst: u32, now: Instant) -> Self {
        Self {
            left: burst,
            since: now,
        }
    }

    /// Takes one, or tells how long it is until the next.
    fn take(&mut self, (burst, refill): (u32, Duration), now: Instant) -> Result<(), Duration> {
        self.refilled((burst, refill), now);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(refill.saturating_sub(now.saturating_duration_since(self.since))),
        }
    }

    fn refilled(&mut self, (burst, refill): (u32, Duration), now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_nanos() / refill.as_nanos()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(burst);
        self.since = if self.left == burst {
            now
        } else {
            self.since + refill * more
        };
    }
}

/// All mailboxes of a server. `Network` is what claims are counted by.
#[derive(Debug)]
pub struct Mailboxes<Network> {
    boxes: BTreeMap<Nameplate, Mailbox>,
    networks: BTreeMap<Network, Budget>,
    total: Option<Budget>,
}

impl<Network> Default for Mailboxes<Network> {
    fn default() -> Self {
        Self {
            boxes: BTreeMap::new(),
            networks: BTreeMap::new(),
            total: None,
        }
    }
}

impl<Network: Ord + Copy> Mailboxes<Network> {
    /// An owner wants one: the nameplate that it had, where that is free, or a short one.
    ///
    /// # Errors
    /// [`MailboxError::Full`].
    pub fn handle_open(
        &mut self,
        owner: OwnerId,
        wanted: Option<Nameplate>,
        lifetime: Duration,
        (random, now): (&mut impl Rng, Instant),
    ) -> Result<Nameplate, MailboxError> {
        self.handle_timeout(now);
        let of_owner = self.boxes.values().filter(|one| one.owner == owner).count();
        if self.boxes.len() >= MAILBOXES_MAX || of_owner >= OF_ONE_OWNER_MAX {
            return Err(MailboxError::Full);
        }
        let free = |plate: &Nameplate| !self.boxes.contains_key(plate);
        let nameplate = match wanted.filter(free) {
            Some(wanted) => wanted,
            None => self.draw(random).ok_or(MailboxError::Full)?,
        };
        let longest = Duration::from_secs(MAILBOX_MAX_S.into());
        let mailbox = Mailbox {
            owner,
            expires_at: now + lifetime.min(longest),
            claims_left: CLAIMS_OF_ONE_MAX,
        };
        self.boxes.insert(nameplate, mailbox);
        Ok(nameplate)
    }

    /// A free number with as few digits as there is room for.
    fn draw(&self, random: &mut impl Rng) -> Option<Nameplate> {
        let ends = [9, 99, 999, 9_999, Nameplate::MAX];
        let draws = ends.into_iter().flat_map(|end| [end; DRAWS]);
        draws
            .filter_map(|end| Nameplate::new(random.random_range(1..=end)))
            .find(|plate| !self.boxes.contains_key(plate))
    }

    /// Somebody in `network` names a mailbox: its owner, if the claim may be made.
    ///
    /// # Errors
    /// [`MailboxError::Unknown`] or [`MailboxError::TooMany`].
    pub fn handle_claim(
        &mut self,
        nameplate: Nameplate,
        network: Network,
        now: Instant,
    ) -> Result<OwnerId, MailboxError> {
        self.handle_timeout(now);
        let too_many = |retry_after| MailboxError::TooMany { retry_after };
        let own = (NETWORK_BURST, NETWORK_REFILL);
        self.forget_networks(now);
        let full = Budget::full(NETWORK_BURST, now);
        let budget = self.networks.entry(network).or_insert(full);
        budget.take(own, now).map_err(too_many)?;
        let all = (TOTAL_BURST, TOTAL_REFILL);
        let total = self.total.get_or_insert(Budget::full(TOTAL_BURST, now));
        total.take(all, now).map_err(too_many)?;
        let mailbox = self.boxes.get_mut(&nameplate);
        let mailbox = mailbox.ok_or(MailboxError::Unknown)?;
        match mailbox.claims_left.checked_sub(1) {
            Some(left) => mailbox.claims_left = left,
            None => return Err(MailboxError::Unknown),
        }
        Ok(mailbox.owner)
    }

    fn forget_networks(&mut self, now: Instant) {
        if self.networks.len() < NETWORKS_MAX {
            return;
        }
        self.networks.retain(|_, budget| {
            budget.refilled((NETWORK_BURST, NETWORK_REFILL), now);
            budget.left < NETWORK_BURST
        });
        // More networks than that within a minute are an attack: what all may do is bounded too.
        if self.networks.len() >= NETWORKS_MAX {
            self.networks.clear();
        }
    }

    /// An owner gives one back.
    pub fn handle_close(&mut self, owner: OwnerId, nameplate: Nameplate) {
        let is_own = |one: &Mailbox| one.owner == owner;
        if self.boxes.get(&nameplate).is_some_and(is_own) {
            self.boxes.remove(&nameplate);
        }
    }

    /// Those whose time is over end.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.boxes.retain(|_, one| now < one.expires_at);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}
