//! Figures as a person reads them: sizes, durations, times, columns.

use std::time::Duration;

use shoal_link::{LivePath, PathKind};

/// A number of bytes with a binary unit: `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A duration in its two largest units: `3m 20s`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A round trip: `0.3 ms`, `48 ms`.
pub(crate) fn round_trip(length: Duration) -> String {
    let milliseconds = length.as_secs_f64() * 1000.0;
    if milliseconds < 10.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

/// How the datagrams of a link travel, in a word.
pub(crate) fn path_kind(path: &LivePath) -> &'static str {
    match path.kind {
        PathKind::Direct => "direct",
        PathKind::Punched => "punched",
        PathKind::Relayed => "relayed",
        _ => "indirect",
    }
}

/// How a link's datagrams travel, and through which relay where they are relayed.
pub(crate) fn path_text(path: &LivePath) -> String {
    match path.kind {
        PathKind::Relayed => format!("relayed by {}", path.remote),
        _ if path.is_on_lan => "direct on the LAN".to_owned(),
        _ => path_kind(path).to_owned(),
    }
}

/// The same, and where they go.
pub(crate) fn path_place(path: &LivePath) -> String {
    match path.kind {
        PathKind::Relayed => path_text(path),
        _ => format!("{}, {}", path_text(path), path.remote),
    }
}

/// A modification time (nanoseconds since 1970-01-01 UTC) as `2026-03-01 14:05` in UTC.
pub(crate) fn when(mtime_ns: i64) -> String {
    let seconds = mtime_ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        second / 3600,
        second % 3600 / 60
    )
}

/// Days since 1970-01-01 as year, month and day of the proleptic Gregorian calendar (Howard
/// Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Rows in aligned columns, two spaces apart; the last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| console::measure_text_width(cell))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&console::pad_str(
                cell,
                *width,
                console::Alignment::Left,
                None,
            ));
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_dates() {
        assert_eq!(when(0), "1970-01-01 00:00");
        assert_eq!(when(1_709_211_900 * 1_000_000_000), "2024-02-29 13:05");
        assert_eq!(when(-1), "1969-12-31 23:59");
    }

    #[test]
    fn durations_keep_two_units() {
        assert_eq!(duration(Duration::from_secs(59)), "59s");
        assert_eq!(duration(Duration::from_secs(200)), "3m 20s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1d 1h");
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".into(), "1".into()],
            vec!["ccc".into(), "22".into()],
        ];
        assert_eq!(table(&rows), "a    1\nccc  22");
    }
}
