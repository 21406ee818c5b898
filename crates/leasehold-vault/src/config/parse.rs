//! Values as people write them. No error repeats what was given: it may be a secret that went
//! into the wrong place.

use std::time::Duration;

use crate::limit::RateLimit;

/// No call may take longer; a number that large is in the wrong unit.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A whole answer of the server is a few hundred bytes; less than this and nothing works.
const SMALLEST_LIMIT: usize = 1024;

/// "30s", "1h", "1h30m", "500ms"; a bare number is seconds, as the server's own client has it.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    };
    match parsed {
        Err(_) => Err("is no duration: write it like 30s, 500ms, 5m or 1h"),
        Ok(zero) if zero.is_zero() => Err("is zero: leave it out for the default"),
        Ok(long) if long > LONGEST => Err("is more than a day: write it like 30s, 5m or 1h"),
        Ok(duration) => Ok(duration),
    }
}

pub(super) fn flag(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err("is neither true nor false"),
    }
}

/// "65536", "64KiB", "1MiB". Upper or lower case; KB is 1000 bytes, K and KiB are 1024.
pub(super) fn size(text: &str) -> Result<usize, &'static str> {
    const NO_SIZE: &str = "is no size: write it in bytes, or like 512KiB or 1MiB";
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: usize = number.parse().map_err(|_| NO_SIZE)?;
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "k" | "kib" => 1024,
        "mb" => 1_000_000,
        "m" | "mib" => 1024 * 1024,
        _ => return Err(NO_SIZE),
    };
    match number.checked_mul(unit) {
        None => Err(NO_SIZE),
        Some(small) if small < SMALLEST_LIMIT => Err("is less than 1 KiB, which no answer fits in"),
        Some(size) => Ok(size),
    }
}

/// "10" requests a second, or "10:20" with a burst of 20.
pub(super) fn rate_limit(text: &str) -> Result<RateLimit, &'static str> {
    const NO_RATE: &str =
        "is no rate: write requests per second, with a burst if you like, such as 10 or 10:20";
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst.trim().parse().map_err(|_| NO_RATE)?)),
        None => (text, None),
    };
    let rate: f64 = rate.trim().parse().map_err(|_| NO_RATE)?;
    RateLimit::new(rate, burst).ok_or(NO_RATE)
}

/// "16": a number above zero.
pub(super) fn count(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(0) | Err(_) => Err("is no count: write a number above zero"),
        Ok(count) => Ok(count),
    }
}

pub(super) fn kv_version(text: &str) -> Result<u8, &'static str> {
    match text.trim_start_matches(['v', 'V']) {
        "1" => Ok(1),
        "2" => Ok(2),
        _ => Err("is no version of the key/value engine: write 1 or 2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("500ms", 500),
            ("60", 60_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0s", "-1", "30 parsecs", "s.token", "100000", "2d", "1e99", "∞"] {
            duration(text).expect_err(text);
        }
    }

    #[test]
    fn flags_sizes_rates_and_versions_are_read_as_people_write_them() {
        assert_eq!((flag("TRUE"), flag("0"), flag("off")), (Ok(true), Ok(false), Ok(false)));
        flag("maybe").unwrap_err();
        assert_eq!(
            (size("2048"), size("64KiB"), size("1 MiB"), size("2kb")),
            (Ok(2048), Ok(65536), Ok(1 << 20), Ok(2000))
        );
        for text in ["", "1", "MiB", "1GiB", "-5", "99999999999999999999", "18446744073709551615M"]
        {
            size(text).expect_err(text);
        }
        assert_eq!(rate_limit("10"), Ok(RateLimit::new(10.0, Some(10)).unwrap()));
        assert_eq!(rate_limit("0.5:3"), Ok(RateLimit::new(0.5, Some(3)).unwrap()));
        for text in ["", "0", "-1", "NaN", "inf", "10:0", "10:x", "1e-40", "x:3"] {
            rate_limit(text).expect_err(text);
        }
        assert_eq!(count("16"), Ok(16));
        for text in ["", "0", "-1", "1.5", "many", "99999999999999999999"] {
            count(text).expect_err(text);
        }
        assert_eq!((kv_version("1"), kv_version("v2")), (Ok(1), Ok(2)));
        kv_version("3").unwrap_err();
    }
}
