//! Numbers for people.

/// All digits, in groups: `65,537`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Exact below 10,000, then three digits: `9,999`, `12.3 k`, `1.24 M`.
pub(super) fn count(number: u64) -> String {
    if number < 10_000 {
        return grouped(number);
    }
    scaled(number as f64, 1000.0, &["", " k", " M", " G", " T", " P", " E"])
}

/// `812 B`, `3.41 GiB`.
pub(super) fn bytes(number: u64) -> String {
    scaled(
        number as f64,
        1024.0,
        &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"],
    )
}

/// Something per second, without its unit: `0`, `0.4`, `812`, `1.24 M`.
pub(super) fn rate(number: f64) -> String {
    if number > 0.0 && number < 10.0 {
        return format!("{number:.1}");
    }
    scaled(number, 1000.0, &["", " k", " M", " G", " T", " P"])
}

/// Bits per second, with the unit: `1.24 Gbit/s`.
pub(super) fn bit_rate(number: f64) -> String {
    scaled(
        number,
        1000.0,
        &[" bit/s", " kbit/s", " Mbit/s", " Gbit/s", " Tbit/s", " Pbit/s"],
    )
}

/// A share of 0.0 ..= 1.0: `33.3 %`.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent > 0.0 && percent < 0.05 => "<0.1 %".to_owned(),
        percent if (99.95..100.0).contains(&percent) => ">99.9 %".to_owned(),
        100.0 => "100 %".to_owned(),
        percent => format!("{percent:.1} %"),
    }
}

/// A share of 0.0 ..= 1.0 as a bar `width` columns long, in steps of an eighth; something is never shown as nothing.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let whole = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let whole = if share > 0.0 { whole.max(1) } else { whole };
    let mut bar = "█".repeat(whole / 8);
    if whole % 8 > 0 {
        bar.push(EIGHTHS[whole % 8]);
    }
    bar
}

/// The two largest units of a time in seconds: `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn seconds(number: u64) -> String {
    let (minutes, hours, days) = (number / 60, number / 3600, number / 86_400);
    let pair = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    if days > 0 {
        pair(days, "d", hours % 24, "h")
    } else if hours > 0 {
        pair(hours, "h", minutes % 60, "min")
    } else if minutes > 0 {
        format!("{minutes} min")
    } else {
        format!("{number} s")
    }
}

/// The time from `then` to `now`, both in milliseconds; 0 s if a clock was set back in between.
pub(super) fn age(then: u64, now: u64) -> String {
    seconds(now.saturating_sub(then) / 1000)
}

/// Microseconds: `312 µs`, `1.24 ms`, `2.50 s`.
pub(super) fn micros(number: u64) -> String {
    scaled(number as f64, 1000.0, &[" µs", " ms", " s"])
}

/// Milliseconds, as a setting: `200 ms`, `1.5 s`.
pub(super) fn millis(number: u64) -> String {
    if number < 1000 {
        return format!("{number} ms");
    }
    format!("{} s", number as f64 / 1000.0)
}

/// Three digits and a unit of `units`, each `step` times the one before; the first has no parts.
fn scaled(mut number: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while number >= 999.5 && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let decimals = if unit == 0 { 0 } else { decimals(number) };
    let name = units.get(unit).copied().unwrap_or_default();
    format!("{number:.decimals$}{name}")
}

fn decimals(number: f64) -> usize {
    match number {
        number if number < 9.995 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_rates() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(count(9_999), "9,999");
        assert_eq!(count(10_000), "10.0 k");
        assert_eq!(count(999_499), "999 k");
        assert_eq!(count(999_500), "1.00 M");
        assert_eq!(count(1_244_000), "1.24 M");
        assert_eq!(count(u64::MAX), "18.4 E");
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(0.4), "0.4");
        assert_eq!(rate(11.9), "12");
        assert_eq!(rate(812_345.0), "812 k");
        assert_eq!(bit_rate(6.412e9), "6.41 Gbit/s");
        assert_eq!(bit_rate(0.0), "0 bit/s");
    }

    #[test]
    fn bytes_are_binary() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1023), "1.00 KiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(3_661_000_000), "3.41 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn shares() {
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(0.0001), "<0.1 %");
        assert_eq!(percent(1.0 / 3.0), "33.3 %");
        assert_eq!(percent(0.9999), ">99.9 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(bar(0.0, 8), "");
        assert_eq!(bar(0.0001, 8), "▏");
        assert_eq!(bar(0.5, 8), "████");
        assert_eq!(bar(0.33, 8), "██▋");
        assert_eq!(bar(7.0, 8), "████████");
        assert_eq!(bar(f64::NAN, 8), "");
    }

    #[test]
    fn times() {
        assert_eq!(seconds(0), "0 s");
        assert_eq!(seconds(59), "59 s");
        assert_eq!(seconds(200), "3 min");
        assert_eq!(seconds(7500), "2 h 5 min");
        assert_eq!(seconds(7200), "2 h");
        assert_eq!(seconds(277_200), "3 d 5 h");
        assert_eq!(age(5_000, 17_900), "12 s");
        assert_eq!(age(5_000, 1_000), "0 s");
        assert_eq!(micros(312), "312 µs");
        assert_eq!(micros(1_240), "1.24 ms");
        assert_eq!(micros(2_500_000), "2.50 s");
        assert_eq!(millis(200), "200 ms");
        assert_eq!(millis(1500), "1.5 s");
    }
}
