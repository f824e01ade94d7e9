//! The time of day where this machine is.
//!
//! `jiff` reads the system's time zone and its rules itself. The C library's way depends on the
//! environment of a process with threads, which is why other crates refuse to use it there.

use jiff::ZonedDateTime;
use shoal_core::schedule::TimeOfDay;

/// The local time, by the system's time zone and its rules for summer time.
pub(super) fn time_of_day() -> TimeOfDay {
    let time = ZonedDateTime::now().time();
    let clock = [time.hour(), time.minute(), time.second()];
    let [hour, minute, second] = clock.map(|part| u32::from(part.unsigned_abs()));
    TimeOfDay::from_seconds(hour * 3600 + minute * 60 + second)
}
