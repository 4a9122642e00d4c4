//! Durations and sizes as people write them.

use super::diagnostic::Problem;
use super::read::Reader;
use super::tree::{Kind, Node};
use crate::value::Value;

const DURATIONS: [(&str, &str, u64); 5] = [
    ("ms", "milliseconds", 1),
    ("s", "seconds", 1000),
    ("m", "minutes", 60_000),
    ("h", "hours", 3_600_000),
    ("d", "days", 86_400_000),
];

const SIZES: [(&str, u64); 11] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Number and unit of a text such as `64MiB`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// Milliseconds of `500ms`, `2s`, `5m`, `1h`, `1d`.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (.., factor) = DURATIONS.iter().find(|(short, ..)| *short == unit)?;
    number.checked_mul(*factor)
}

/// Bytes of `64MiB`, `1GB`, `123`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

impl Reader {
    /// A duration in milliseconds, between two bounds.
    pub(crate) fn duration(&mut self, node: &Node, path: &str, min: u64, max: u64) -> Option<u64> {
        let (found, ms) = match &node.kind {
            Kind::Scalar { raw, .. } => (raw.clone(), parse_duration(raw)),
            Kind::Map(_) => ("{…}".to_owned(), self.duration_map(node, path)),
            Kind::List(_) => ("[…]".to_owned(), None),
        };
        let Some(ms) = ms else {
            let text = found.chars().take(80).collect();
            self.report(node.at, path, Problem::Duration { text });
            return None;
        };
        if (min..=max).contains(&ms) {
            return Some(ms);
        }
        self.report(node.at, path, Problem::Range { found: format!("{ms} ms"), min, max });
        None
    }

    fn duration_map(&mut self, node: &Node, path: &str) -> Option<u64> {
        let known = DURATIONS.map(|(_, long, _)| long);
        let fields = self.fields(node, path, &known)?;
        let mut total = 0_u64;
        for (_, long, factor) in DURATIONS {
            if let Some(part) = fields.get(long) {
                let Value::Int(n) = part.value() else {
                    return None;
                };
                total = total.checked_add(u64::try_from(n).ok()?.checked_mul(factor)?)?;
            }
        }
        Some(total)
    }

    /// A size in bytes, between two bounds.
    pub(crate) fn size(&mut self, node: &Node, path: &str, min: u64, max: u64) -> Option<u64> {
        let raw = self.raw(node, path, "a size")?;
        let Some(bytes) = parse_size(raw) else {
            let text = raw.chars().take(80).collect();
            self.report(node.at, path, Problem::Size { text });
            return None;
        };
        if (min..=max).contains(&bytes) {
            return Some(bytes);
        }
        self.report(node.at, path, Problem::Range { found: format!("{bytes} B"), min, max });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_people_write_them() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("2s", Some(2000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("2 d", Some(172_800_000)),
            ("5", None),
            ("1.5s", None),
            ("s", None),
            ("-1s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(parse_duration(text), ms, "{text}");
        }
        for (text, bytes) in [
            ("123", Some(123)),
            ("64MiB", Some(64 << 20)),
            ("1GB", Some(1_000_000_000)),
            ("1 KiB", Some(1024)),
            ("1Gi", None),
            ("1.5GiB", None),
            ("", None),
            ("18446744073709551615TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
