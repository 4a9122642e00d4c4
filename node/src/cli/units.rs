//! Numbers as people write and read them.

use catalog::{Amount, Currency};

/// Milliseconds of `500ms`, `30s`, `5m`, `1h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    scaled(text, &units)
        .ok_or_else(|| "write a number and a unit, like `30s`, `5m` or `1h`".to_owned())
}

/// Bytes of `512MiB`, `2GB`, `4096`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
    ];
    scaled(text, &units)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "write a number and a unit, like `512MiB` or `2GB`".to_owned())
}

/// Thousandths of a core of `2` or `0.5`.
pub(crate) fn parse_cores(text: &str) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 6 || fraction.len() > 3 {
        return Err("write a number of cores, like `2` or `0.5`".to_owned());
    }
    match format!("{whole}{fraction:0<3}").parse() {
        Ok(0) | Err(_) => Err("at least a thousandth of a core has to be offered".to_owned()),
        Ok(milli) => Ok(milli),
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// `3 B`, `270.9 KiB`, `1.5 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut tenths = u128::from(n) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `2` or `0.5` cores.
pub(crate) fn cores(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `340 ms`, `12.3 s`, `4 min 5 s`, `2 h 3 min`.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `2026-11-21 23:05:07Z` of Unix milliseconds.
pub(crate) fn time(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date by eras of 400 years that begin on 1 March (H. Hinnant, "chrono-compatible date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second % 3600 / 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// `0.0125 EUR`.
pub(crate) fn money(amount: Amount, currency: Currency) -> String {
    format!("{amount} {currency}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_cores_read_as_people_write_them() {
        assert_eq!(parse_duration("1h"), Ok(3_600_000));
        assert_eq!(parse_duration("250 ms"), Ok(250));
        for bad in ["", "h", "5", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "0", "GiB", "1Gi", "1.5GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(
            (parse_cores("2"), parse_cores("0.5"), parse_cores("1.25")),
            (Ok(2000), Ok(500), Ok(1250))
        );
        for bad in ["", "0", "0.0", "-1", "1.", ".5", "1.2345", "two", "99999999"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_print_as_people_read_them() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (277_374, "270.8 KiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in
            [(999, "999 ms"), (12_345, "12.3 s"), (245_000, "4 min 5 s"), (7_380_000, "2 h 3 min")]
        {
            assert_eq!(span(n), text);
        }
        for (n, text) in [(2000, "2"), (500, "0.5"), (1250, "1.25")] {
            assert_eq!(cores(n), text);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let times = [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_795_302_307_000, "2026-11-21 23:05:07Z"),
            (4_102_444_799_000, "2099-12-31 23:59:59Z"),
        ];
        for (ms, text) in times {
            assert_eq!(time(ms), text);
        }
    }
}
