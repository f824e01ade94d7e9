//! Rate limits of a node: what it was started with, what was changed since, and who waits for it.
//!
//! Each of the four limits (up and down, of all peers together and of each) has a schedule from
//! flags, environment or settings, and possibly a change that an operator made while the node
//! runs, which counts until the node ends. Whoever moves content calls
//! [`Transfer::take`](crate::transfers::Transfer::take) at one point: a sender before it hands
//! bytes to the network, a receiver before it reads them. A receiver that does not read is what
//! slows its source down, so a source may be ahead by a stream's window.
//!
//! Only content counts, not the messages around it. Where no limit is set, nothing is locked.

mod clock;
mod gate;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_core::rate::Limits;
use shoal_core::schedule::{Schedule, TimeOfDay};
use shoal_wire::Rate;
use shoal_wire::message::{LimitChange, LimitRequest, LimitsInForce};

pub(crate) use self::gate::Gate;

/// Longest sleep until hours are looked at again: a clock that was set is noticed by then.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// The limits that a node is started with; by default there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct LimitSettings {
    /// What it sends, to all peers together.
    #[serde(with = "rules", skip_serializing_if = "Schedule::is_empty")]
    pub up: Schedule,
    /// What it receives, from all peers together.
    #[serde(with = "rules", skip_serializing_if = "Schedule::is_empty")]
    pub down: Schedule,
    /// What it sends to any one peer.
    #[serde(with = "rules", skip_serializing_if = "Schedule::is_empty")]
    pub up_per_peer: Schedule,
    /// What it receives from any one peer.
    #[serde(with = "rules", skip_serializing_if = "Schedule::is_empty")]
    pub down_per_peer: Schedule,
}

impl LimitSettings {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.schedules().into_iter().all(Schedule::is_empty)
    }

    fn schedules(&self) -> [&Schedule; 4] {
        let Self {
            up,
            down,
            up_per_peer,
            down_per_peer,
        } = self;
        [up, down, up_per_peer, down_per_peer]
    }

    fn at(&self, time: TimeOfDay) -> LimitsInForce {
        LimitsInForce {
            up: self.up.rate_at(time),
            down: self.down.rate_at(time),
            up_per_peer: self.up_per_peer.rate_at(time),
            down_per_peer: self.down_per_peer.rate_at(time),
        }
    }
}

/// A node's limits. Cheap to clone; by default there are none.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    settings: LimitSettings,
    /// What an operator said last of each limit; never [`LimitChange::Keep`] in effect.
    said: Mutex<LimitRequest>,
    up: Gate,
    down: Gate,
}

impl Throttle {
    /// Keeps these limits from now on. Hours need [`follow_hours`](Self::follow_hours).
    pub fn new(settings: LimitSettings) -> Self {
        let throttle = Self(Arc::new(Shared {
            settings,
            ..Shared::default()
        }));
        throttle.apply(&throttle.said());
        throttle
    }

    /// The limits in force.
    pub fn in_force(&self) -> LimitsInForce {
        let (up, down) = (self.0.up.limits(), self.0.down.limits());
        LimitsInForce {
            up: up.total,
            down: down.total,
            up_per_peer: up.per_peer,
            down_per_peer: down.per_peer,
        }
    }

    /// Changes limits, for transfers that run too, and returns those in force then.
    pub fn change(&self, changes: &LimitRequest) -> LimitsInForce {
        let mut guard = self.said();
        let said = &mut *guard;
        let pairs = [
            (&mut said.up, changes.up),
            (&mut said.down, changes.down),
            (&mut said.up_per_peer, changes.up_per_peer),
            (&mut said.down_per_peer, changes.down_per_peer),
        ];
        for (said, change) in pairs {
            if change != LimitChange::Keep {
                *said = change;
            }
        }
        self.apply(said);
        drop(guard);
        let in_force = self.in_force();
        if *changes != LimitRequest::default() {
            tracing::info!(limits = %sentence(&in_force), "rate limits changed");
        }
        in_force
    }

    /// Applies what the schedules say as the hours pass; returns at once where they name none.
    pub async fn follow_hours(self) {
        loop {
            let time = clock::time_of_day();
            let schedules = self.0.settings.schedules();
            let changes = schedules.into_iter();
            let next = changes.filter_map(|schedule| schedule.seconds_to_change(time));
            let Some(seconds) = next.min() else { return };
            let wait = Duration::from_secs(seconds.into());
            tokio::time::sleep(wait.min(CLOCK_INTERVAL)).await;
            self.apply(&self.said());
        }
    }

    pub(crate) fn up(&self) -> &Gate {
        &self.0.up
    }

    pub(crate) fn down(&self) -> &Gate {
        &self.0.down
    }

    fn said(&self) -> std::sync::MutexGuard<'_, LimitRequest> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, said: &LimitRequest) {
        let scheduled = self.0.settings.at(clock::time_of_day());
        self.0.up.set(Limits {
            total: in_effect(said.up, scheduled.up),
            per_peer: in_effect(said.up_per_peer, scheduled.up_per_peer),
        });
        self.0.down.set(Limits {
            total: in_effect(said.down, scheduled.down),
            per_peer: in_effect(said.down_per_peer, scheduled.down_per_peer),
        });
    }
}

fn in_effect(said: LimitChange, scheduled: Option<Rate>) -> Option<Rate> {
    match said {
        LimitChange::Keep | LimitChange::Configured => scheduled,
        LimitChange::Unlimited => None,
        LimitChange::To(rate) => Some(rate),
    }
}

/// Limits as a person reads them, on one line.
pub fn sentence(limits: &LimitsInForce) -> String {
    let named = [
        ("up", limits.up),
        ("down", limits.down),
        ("up per peer", limits.up_per_peer),
        ("down per peer", limits.down_per_peer),
    ];
    let shown: Vec<String> = named
        .into_iter()
        .filter_map(|(name, rate)| Some(format!("{name} {}", rate?)))
        .collect();
    if shown.is_empty() {
        "unlimited".to_owned()
    } else {
        shown.join(", ")
    }
}

/// A schedule in a settings file: one rule as text, or a list of them.
mod rules {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use shoal_core::schedule::{Rule, Schedule};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(
        schedule: &Schedule,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(schedule.rules().iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Schedule, D::Error> {
        let texts = match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        };
        let rules = texts.iter().map(|text| text.parse());
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>().map_err(de::Error::custom)?;
        Schedule::new(rules).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn settings(text: &str) -> LimitSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_was_said_last_counts_until_what_was_configured_is_asked_back() {
        let throttle = Throttle::new(settings("up = '5M'\ndown-per-peer = ['1M']"));
        let configured = throttle.in_force();
        assert_eq!(sentence(&configured), "up 5MB/s, down per peer 1MB/s");
        let changed = throttle.change(&LimitRequest {
            up: LimitChange::Unlimited,
            down: LimitChange::To(rate("300k")),
            ..LimitRequest::default()
        });
        assert_eq!(sentence(&changed), "down 300kB/s, down per peer 1MB/s");
        assert_eq!(throttle.change(&LimitRequest::default()), changed);
        let back = throttle.change(&LimitRequest {
            up: LimitChange::Configured,
            down: LimitChange::Configured,
            ..LimitRequest::default()
        });
        assert_eq!(back, configured);
        assert_eq!(sentence(&Throttle::default().in_force()), "unlimited");
    }

    #[test]
    fn limits_are_kept_in_a_file_as_people_write_them() {
        let read = settings("up = ['20M', '2M@08:00-18:00']\ndown = 'unlimited'");
        let written = toml::to_string(&read).unwrap();
        assert!(written.contains("2MB/s@08:00-18:00"), "{written}");
        assert_eq!(settings(&written), read);
        for wrong in ["up = 'fast'", "up = 3", "upp = '3M'", "up = ['1M@9']"] {
            assert!(toml::from_str::<LimitSettings>(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn following_hours_ends_where_there_are_none() {
        Throttle::new(settings("up = '5M'")).follow_hours().await;
    }
}
