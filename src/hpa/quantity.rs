//! Kubernetes quantities: the text, its canonical form, and the two numbers the controller takes from it.
//!
//! Invariant: a quantity is held exactly (an integer times a power of ten), nothing finer than nano.

use crate::units::Milli;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::str::FromStr;

/// The finest precision: what lies below is rounded up, away from zero.
const NANO: i32 = -9;
/// Digits that are kept exactly; further ones only matter by being there, and round up.
const MOST_DIGITS: usize = 30;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// How a quantity was written, and so is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `1500m`, `2k`.
    Decimal,
    /// `1e3`.
    Exponent,
    /// `1Ki`.
    Binary,
}

/// A quantity as the API takes it: a string or a bare number.
///
/// `Display` prints the canonical form: no fraction, the largest suffix without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    /// Without trailing zeros; the value is this times ten to the `exponent`.
    mantissa: i128,
    exponent: i32,
    form: Form,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a quantity; expected a number like 4, 0.5 or 4545m")]
pub struct ParseQuantityError(String);

impl Quantity {
    fn new(mantissa: i128, exponent: i32, form: Form) -> Quantity {
        let (mut mantissa, mut exponent) = (mantissa, exponent);
        while exponent < NANO && mantissa != 0 {
            mantissa = divide_away_from_zero(mantissa, 10);
            exponent += 1;
        }
        while mantissa != 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        if mantissa == 0 {
            exponent = 0;
        }
        Quantity { mantissa, exponent, form }
    }

    /// In milli-units, rounded away from zero and capped at what 64 bits hold (`MilliValue`).
    pub fn milli(self) -> Milli {
        let mut value = self.mantissa;
        for _ in 0..(self.exponent + 3).min(40) {
            value = value.saturating_mul(10);
        }
        for _ in 0..-(self.exponent + 3) {
            value = divide_away_from_zero(value, 10);
        }
        Milli(i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX }))
    }

    /// As the controller turns a tolerance into binary64 (`AsApproximateFloat64` of the stored, canonical
    /// text): integer times power of ten, which is not always the nearest double. `0.35` is stored as
    /// `350m` and is 350 x 0.001.
    pub fn approximate(self) -> f64 {
        let (integer, power) = match self.form {
            Form::Binary => (self.integer_at(0), 0),
            Form::Decimal | Form::Exponent => self.canonical(),
        };
        match power {
            0 => integer as f64,
            power if power < 0 => integer as f64 * (1.0 / 10_f64.powi(-power)),
            power => integer as f64 * 10_f64.powi(power),
        }
    }

    /// The integer and the power of ten (a multiple of three) of the canonical form.
    fn canonical(self) -> (i128, i32) {
        let mut power = self.exponent.div_euclid(3) * 3;
        if self.form != Form::Exponent {
            power = power.min(18);
        }
        (self.integer_at(power), power)
    }

    /// The mantissa for a power of ten that is not above the exponent.
    fn integer_at(self, power: i32) -> i128 {
        (power..self.exponent).fold(self.mantissa, |value, _| value.saturating_mul(10))
    }
}

fn divide_away_from_zero(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.form == Form::Binary && self.exponent >= 0 && self.integer_at(0).abs() >= 1024 {
            let (mut value, mut suffix) = (self.integer_at(0), "");
            for next in BINARY {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let (integer, power) = self.canonical();
        match self.form {
            Form::Exponent if power != 0 => write!(f, "{integer}e{power}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, exponent)| *exponent == power);
                write!(f, "{integer}{}", suffix.map_or("", |(text, _)| text))
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseQuantityError(text.to_owned());
        let trimmed = text.trim();
        let (negative, unsigned) = match trimmed.as_bytes().first() {
            Some(b'-') => (true, &trimmed[1..]),
            Some(b'+') => (false, &trimmed[1..]),
            _ => (false, trimmed),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(error());
        }
        let (scale, power, form) = scale_of(suffix).ok_or_else(error)?;
        let (digits, dropped) = digits(whole, fraction);
        let magnitude = digits.saturating_mul(scale);
        let power = power.saturating_add(dropped).saturating_sub(i32::try_from(fraction.len()).unwrap_or(0));
        Ok(Quantity::new(if negative { -magnitude } else { magnitude }, power, form))
    }
}

/// The digits as one integer, and how many were dropped at its end.
fn digits(whole: &str, fraction: &str) -> (i128, i32) {
    let text: String = [whole, fraction].concat();
    let text = text.trim_start_matches('0');
    let (kept, rest) = text.split_at(text.len().min(MOST_DIGITS));
    let value: i128 = kept.bytes().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    let up = rest.bytes().any(|digit| digit != b'0');
    (value + i128::from(up), i32::try_from(rest.len()).unwrap_or(i32::MAX))
}

/// What a suffix multiplies by (an integer and a power of ten), and the form it belongs to.
fn scale_of(suffix: &str) -> Option<(i128, i32, Form)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(text, _)| *text == suffix) {
        return Some((1, *power, Form::Decimal));
    }
    if let Some(index) = BINARY.iter().position(|text| *text == suffix) {
        return Some((1024_i128.pow(index as u32 + 1), 0, Form::Binary));
    }
    let power = suffix.strip_prefix(['e', 'E'])?.parse::<i16>().ok()?;
    Some((1, i32::from(power), Form::Exponent))
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

struct QuantityVisitor;

impl Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity, like 4, \"0.5\" or \"4545m\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Quantity, E> {
        Ok(Quantity::new(value.into(), 0, Form::Decimal))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Quantity, E> {
        Ok(Quantity::new(value.into(), 0, Form::Decimal))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Quantity, E> {
        self.visit_str(&value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    /// What an API server 1.36.2 stored.
    #[test]
    fn the_canonical_form_is_the_one_the_api_server_stores() {
        let stored = [
            ("3.6", "3600m"),
            ("3600m", "3600m"),
            ("4.0", "4"),
            ("0.5", "500m"),
            ("1e3", "1e3"),
            ("1k", "1k"),
            ("1Ki", "1Ki"),
            ("60", "60"),
            ("3.6001", "3600100u"),
            ("0.0001", "100u"),
            ("1000m", "1"),
            (" 4", "4"),
            ("4 ", "4"),
            ("1e400", "10e399"),
            ("4.50", "4500m"),
            ("1500", "1500"),
            ("999999999999", "999999999999"),
            ("1e-4", "100e-6"),
            ("2000", "2k"),
            ("1u", "1u"),
            ("0", "0"),
        ];
        for (given, canonical) in stored {
            assert_eq!(quantity(given).to_string(), canonical, "{given}");
        }
        for wrong in ["3,6", "\"4\"", "NaN", "", ".", "1.2.3", "٣", "4mm", "4 m", "$HPA_AVERAGEVALUE_TARGET"]
        {
            assert!(wrong.parse::<Quantity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn milli_values_round_away_from_zero() {
        let cases = [
            ("1.0001", 1001),
            ("0.0001", 1),
            ("-0.0001", -1),
            ("19.6", 19_600),
            ("1n", 1),
            ("0.00000000001", 1),
            ("1Ki", 1_024_000),
            ("-50", -50_000),
            ("1e400", i64::MAX),
            ("9223372036854775807", i64::MAX),
        ];
        for (text, milli) in cases {
            assert_eq!(quantity(text).milli(), Milli(milli), "{text}");
        }
    }

    /// The whole percentages at which the controller's product is not the double nearest to n / 100.
    #[test]
    fn a_tolerance_is_an_integer_times_a_power_of_ten() {
        let odd = (0..=100)
            .filter(|percent| {
                quantity(&format!("{}m", percent * 10)).approximate() != f64::from(*percent) / 100.0
            })
            .collect::<Vec<i32>>();
        assert_eq!(odd, [35, 41, 47, 57, 69, 70, 82, 83, 94, 95]);
        assert_eq!(quantity("0.05").approximate(), 50.0 * 0.001);
    }

    #[test]
    fn json_may_hold_a_bare_number() {
        let read = |text: &str| serde_json::from_str::<Quantity>(text).map(|quantity| quantity.to_string());
        assert_eq!(read("3.6").unwrap(), "3600m");
        assert_eq!(read("4").unwrap(), "4");
        assert!(read("true").is_err());
    }
}
