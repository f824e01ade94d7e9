//! Limits by the hour: which rate counts at which time of day.
//!
//! A schedule is a list of rules, `RATE` or `RATE@HH:MM-HH:MM`. The last rule that covers a moment
//! counts, so the general one comes first; where none covers it there is no limit. Hours may run
//! past midnight. The time of day is an argument: what the local time is, the driver knows.

use std::fmt;
use std::str::FromStr;

use shoal_wire::Rate;
use shoal_wire::rate::RateError;

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;
/// Most rules of one schedule: one for each hour of a day.
pub const RULES_MAX: usize = 24;

/// A time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    /// Seconds since midnight, below 86,400.
    second: u32,
}

/// A stretch of the day, from its first minute up to and without its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hours {
    from_minute: u16,
    until_minute: u16,
}

/// One rule: a limit, or none, at all times or at some hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    rate: Option<Rate>,
    hours: Option<Hours>,
}

/// Rules for one limit. The empty one limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule(Vec<Rule>);

/// Why text is not a rule, or rules not a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The rate is not one.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// The hours are not hours.
    #[error("hours are written as HH:MM-HH:MM with two different times, such as 2M@08:00-18:00")]
    Hours,
    /// There are too many.
    #[error("a limit has at most {RULES_MAX} rules")]
    TooMany,
}

impl TimeOfDay {
    /// So many seconds after midnight; a leap second, or more, counts as the last one of the day.
    pub const fn from_seconds(second: u32) -> Self {
        let last = DAY_MINUTES as u32 * 60 - 1;
        Self {
            second: if second > last { last } else { second },
        }
    }
}

impl Schedule {
    /// Takes the rules in their order.
    ///
    /// # Errors
    /// [`ScheduleError::TooMany`].
    pub fn new(rules: Vec<Rule>) -> Result<Self, ScheduleError> {
        if rules.len() > RULES_MAX {
            return Err(ScheduleError::TooMany);
        }
        Ok(Self(rules))
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The limit at a time of day; `None` where there is none.
    pub fn rate_at(&self, time: TimeOfDay) -> Option<Rate> {
        let covers = |rule: &&Rule| rule.hours.is_none_or(|hours| hours.contain(time));
        self.0.iter().rev().find(covers)?.rate
    }

    /// Seconds from a time of day to the next one at which hours begin or end; `None` where there
    /// are no hours.
    pub fn seconds_to_change(&self, time: TimeOfDay) -> Option<u32> {
        let day = u32::from(DAY_MINUTES) * 60;
        let ends = self.0.iter().filter_map(|rule| rule.hours);
        let ends = ends.flat_map(|hours| [hours.from_minute, hours.until_minute]);
        let away = ends.map(|minute| (u32::from(minute) * 60 + day - time.second) % day);
        away.map(|seconds| if seconds == 0 { day } else { seconds })
            .min()
    }
}

impl Hours {
    fn contain(self, time: TimeOfDay) -> bool {
        let from = u32::from(self.from_minute) * 60;
        let until = u32::from(self.until_minute) * 60;
        if from < until {
            (from..until).contains(&time.second)
        } else {
            time.second >= from || time.second < until
        }
    }
}

impl FromStr for Rule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let (rate, hours) = match text.split_once('@') {
            Some((rate, hours)) => (rate, Some(hours.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            rate: Rate::parse_limit(rate)?,
            hours,
        })
    }
}

impl FromStr for Hours {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let (from, until) = text.trim().split_once('-').ok_or(ScheduleError::Hours)?;
        let hours = Self {
            from_minute: minute_of_day(from)?,
            // 24:00 is how people write the end of a day.
            until_minute: minute_of_day(until)? % DAY_MINUTES,
        };
        let is_stretch = hours.from_minute < DAY_MINUTES && hours.from_minute != hours.until_minute;
        is_stretch.then_some(hours).ok_or(ScheduleError::Hours)
    }
}

fn minute_of_day(text: &str) -> Result<u16, ScheduleError> {
    let (hour, minute) = text.split_once(':').ok_or(ScheduleError::Hours)?;
    let number = |digits: &str| {
        let is_number =
            (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let parsed = digits.parse::<u16>().ok();
        parsed.filter(|_| is_number).ok_or(ScheduleError::Hours)
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let total = hour * 60 + minute;
    let is_time = minute < 60 && total <= DAY_MINUTES;
    is_time.then_some(total).ok_or(ScheduleError::Hours)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Some(rate) => write!(f, "{rate}")?,
            None => f.write_str("unlimited")?,
        }
        let Some(hours) = self.hours else {
            return Ok(());
        };
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let (from, until) = (clock(hours.from_minute), clock(hours.until_minute));
        write!(f, "@{from}-{until}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rules: &[&str]) -> Schedule {
        Schedule::new(rules.iter().map(|rule| rule.parse().unwrap()).collect()).unwrap()
    }

    fn at(hour: u32, minute: u32) -> TimeOfDay {
        TimeOfDay::from_seconds(hour * 3600 + minute * 60)
    }

    fn rate(text: &str) -> Option<Rate> {
        Rate::parse_limit(text).unwrap()
    }

    #[test]
    fn nothing_said_is_no_limit_and_never_changes() {
        assert_eq!(Schedule::default().rate_at(at(12, 0)), None);
        assert_eq!(schedule(&["5M"]).rate_at(at(12, 0)), rate("5M"));
        assert_eq!(schedule(&["5M"]).seconds_to_change(at(12, 0)), None);
    }

    #[test]
    fn hours_begin_with_their_first_second_and_end_before_their_last() {
        let office = schedule(&["20M", "2M@08:00-18:00", "unlimited@12:00-13:00"]);
        let before = TimeOfDay::from_seconds(8 * 3600 - 1);
        assert_eq!(office.rate_at(before), rate("20M"));
        assert_eq!(office.seconds_to_change(before), Some(1));
        assert_eq!(office.rate_at(at(8, 0)), rate("2M"));
        assert_eq!(office.seconds_to_change(at(8, 0)), Some(4 * 3600));
        assert_eq!(office.rate_at(at(12, 30)), None);
        assert_eq!(office.rate_at(at(13, 0)), rate("2M"));
        assert_eq!(office.rate_at(at(18, 0)), rate("20M"));
        assert_eq!(office.seconds_to_change(at(18, 0)), Some(14 * 3600));
    }

    #[test]
    fn hours_may_run_past_midnight() {
        let night = schedule(&["1M", "unlimited@22:30-06:00"]);
        for (hour, limited) in [(22, true), (23, false), (0, false), (5, false), (6, true)] {
            assert_eq!(night.rate_at(at(hour, 0)).is_some(), limited, "{hour}");
        }
        assert_eq!(night.seconds_to_change(at(23, 30)), Some(13 * 1800));
        let evening = schedule(&["1M@18:00-24:00"]);
        assert_eq!(evening.rate_at(TimeOfDay::from_seconds(86_399)), rate("1M"));
        assert_eq!(evening.rate_at(TimeOfDay::from_seconds(86_400)), rate("1M"));
        assert_eq!(evening.rate_at(at(0, 0)), None);
        let once = schedule(&["1M@10:00-11:00"]);
        assert_eq!(once.seconds_to_change(at(11, 0)), Some(23 * 3600));
    }

    #[test]
    fn a_rule_reads_back_as_it_is_shown_and_nonsense_is_refused() {
        for (text, shown) in [
            ("2M@8:00-18:00", "2MB/s@08:00-18:00"),
            ("unlimited", "unlimited"),
            ("unlimited @ 22:00-24:00", "unlimited@22:00-00:00"),
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rule));
        }
        for hours in [
            "",
            "8-18",
            "08:00",
            "08:00-08:00",
            "24:00-08:00",
            "08:60-09:00",
            "08:00-25:00",
            "00:00-24:00",
            "+8:00-09:00",
            "008:00-09:00",
            "08:00-18:00-19:00",
        ] {
            let text = format!("2M@{hours}");
            assert_eq!(text.parse::<Rule>(), Err(ScheduleError::Hours), "{text}");
        }
        assert!(matches!("x".parse::<Rule>(), Err(ScheduleError::Rate(_))));
        let many = vec!["1M".parse().unwrap(); RULES_MAX + 1];
        assert_eq!(Schedule::new(many), Err(ScheduleError::TooMany));
    }
}
