//! Rate limits on the command line: options that start with them, words that change them.

use clap::Args;
use shoal_core::schedule::{Rule, Schedule};
use shoal_node::tasks::Tasks;
use shoal_node::throttle::{LimitSettings, Throttle};
use shoal_wire::message::{LimitChange, LimitRequest};
use shoal_wire::rate::{Rate, RateError};

use crate::exit::{Code, Failure};

/// What a command keeps to that only receives: `--down` as it was given, the rest as the settings
/// have it.
pub(crate) fn receiving(
    down: &[Rule],
    settings: &LimitSettings,
    tasks: &Tasks,
) -> Result<Throttle, Failure> {
    let limits = LimitSettings {
        down: over(down, &settings.down)?,
        ..settings.clone()
    };
    let throttle = Throttle::new(limits);
    tasks.spawn(throttle.clone().follow_hours());
    Ok(throttle)
}

/// The limits that a server or peer starts with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rate limits (bytes per second: 500k, 10M, 1.5MB/s, unlimited)")]
pub(crate) struct LimitArguments {
    /// Limits what it sends; at some hours only with @HH:MM-HH:MM. May be repeated: the last rule
    /// that covers the local time counts.
    #[arg(
        long,
        value_name = "RATE[@HOURS]",
        env = "SHOAL_UP",
        value_delimiter = ','
    )]
    pub(crate) up: Vec<Rule>,
    /// Limits what it receives, likewise.
    #[arg(
        long,
        value_name = "RATE[@HOURS]",
        env = "SHOAL_DOWN",
        value_delimiter = ','
    )]
    pub(crate) down: Vec<Rule>,
    /// Limits what it sends to each peer by itself.
    #[arg(
        long,
        value_name = "RATE[@HOURS]",
        env = "SHOAL_UP_PER_PEER",
        value_delimiter = ','
    )]
    pub(crate) up_per_peer: Vec<Rule>,
    /// Limits what it receives from each peer by itself.
    #[arg(
        long,
        value_name = "RATE[@HOURS]",
        env = "SHOAL_DOWN_PER_PEER",
        value_delimiter = ','
    )]
    pub(crate) down_per_peer: Vec<Rule>,
}

impl LimitArguments {
    /// What counts: each limit as it was given, else as the settings have it.
    pub(crate) fn over(&self, settings: &LimitSettings) -> Result<LimitSettings, Failure> {
        Ok(LimitSettings {
            up: over(&self.up, &settings.up)?,
            down: over(&self.down, &settings.down)?,
            up_per_peer: over(&self.up_per_peer, &settings.up_per_peer)?,
            down_per_peer: over(&self.down_per_peer, &settings.down_per_peer)?,
        })
    }
}

/// One limit as it was given, else as the settings have it.
fn over(given: &[Rule], settings: &Schedule) -> Result<Schedule, Failure> {
    if given.is_empty() {
        return Ok(settings.clone());
    }
    Schedule::new(given.to_vec()).map_err(|error| Failure::new(Code::Usage, error.to_string()))
}

/// What becomes of the limits of a running server or peer.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ChangeArguments {
    /// What it sends.
    #[arg(long, value_name = "RATE", value_parser = change, default_value = "keep", hide_default_value = true)]
    up: LimitChange,
    /// What it receives.
    #[arg(long, value_name = "RATE", value_parser = change, default_value = "keep", hide_default_value = true)]
    down: LimitChange,
    /// What it sends to each peer by itself.
    #[arg(long, alias = "per-peer-up", value_name = "RATE", value_parser = change, default_value = "keep", hide_default_value = true)]
    up_per_peer: LimitChange,
    /// What it receives from each peer by itself.
    #[arg(long, alias = "per-peer-down", value_name = "RATE", value_parser = change, default_value = "keep", hide_default_value = true)]
    down_per_peer: LimitChange,
}

impl From<ChangeArguments> for LimitRequest {
    fn from(arguments: ChangeArguments) -> Self {
        Self {
            up: arguments.up,
            down: arguments.down,
            up_per_peer: arguments.up_per_peer,
            down_per_peer: arguments.down_per_peer,
        }
    }
}

/// One change as it is typed: a rate, `unlimited`, `configured` or `keep`.
fn change(text: &str) -> Result<LimitChange, RateError> {
    match text {
        "keep" => Ok(LimitChange::Keep),
        "configured" => Ok(LimitChange::Configured),
        text => Ok(match Rate::parse_limit(text)? {
            Some(rate) => LimitChange::To(rate),
            None => LimitChange::Unlimited,
        }),
    }
}

/// The changes in the words of a prompt: `up 2M down unlimited`, with or without dashes.
pub(crate) fn changes_of(words: &[String]) -> Result<LimitRequest, Failure> {
    let usage = |text: String| Failure::new(Code::Usage, text);
    let mut changes = LimitRequest::default();
    for pair in words.chunks(2) {
        let [name, rate] = pair else {
            return Err(usage(format!("'{}' needs a rate behind it", pair[0])));
        };
        let changed = match name.trim_start_matches('-') {
            "up" => &mut changes.up,
            "down" => &mut changes.down,
            "up-per-peer" => &mut changes.up_per_peer,
            "down-per-peer" => &mut changes.down_per_peer,
            _ => {
                let text = "limits are called up, down, up-per-peer and down-per-peer";
                return Err(usage(format!("'{name}' is no limit: {text}")));
            }
        };
        *changed = change(rate).map_err(|error| usage(error.to_string()))?;
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_prompt_reads_limits_with_and_without_dashes() {
        let changes = changes_of(&words("up 2M --down-per-peer unlimited down configured"));
        let expected = LimitRequest {
            up: LimitChange::To("2M".parse().unwrap()),
            down: LimitChange::Configured,
            up_per_peer: LimitChange::Keep,
            down_per_peer: LimitChange::Unlimited,
        };
        assert_eq!(changes.unwrap(), expected);
        assert_eq!(changes_of(&[]).unwrap(), LimitRequest::default());
        for wrong in ["up", "up fast", "sideways 2M", "up 2M down"] {
            let failure = changes_of(&words(wrong)).unwrap_err();
            assert_eq!(failure.code(), Code::Usage, "{wrong}");
        }
    }

    #[test]
    fn what_is_given_counts_before_what_is_in_the_settings() {
        let schedule = |text: &str| Schedule::new(vec![text.parse().unwrap()]).unwrap();
        let given = ["3M".parse().unwrap()];
        let settings = schedule("1M");
        assert_eq!(over(&given, &settings).unwrap(), schedule("3M"));
        assert_eq!(over(&[], &settings).unwrap(), settings);
        assert_eq!(
            over(&[given[0]; 99], &settings).unwrap_err().code(),
            Code::Usage
        );
    }
}
