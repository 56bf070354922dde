//! What customers buy: read from a file of real purchases, or generated.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Number of titles that the shop sells.
pub const TITLES: u32 = 400;

/// Maximum number of pieces in a purchase. Larger numbers are taken for typing errors. This limit
/// and the next one keep all sums far from overflow.
const MAX_PIECES: u64 = 100_000;
const MAX_CENTS: u64 = 100_000_000;

/// A title's number in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sku(pub u32);

/// A customer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Customer(pub u32);

/// The number of a purchase and of its order: 1, 2, 3, ... in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub u64);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

/// One customer buys some pieces of one title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purchase {
    pub order: OrderId,
    pub customer: Customer,
    pub sku: Sku,
    pub pieces: u64,
    pub cents: u64,
}

/// All purchases of a run, and what the shop and its customers start with.
#[derive(Debug)]
pub struct Day {
    pub purchases: Vec<Purchase>,
    pub stock: BTreeMap<Sku, u64>,
    pub accounts: BTreeMap<Customer, u64>,
}

impl Day {
    /// Most titles are stocked for all purchases, and most customers can pay. Every 20th title and
    /// every 40th customer are a little short, so that honest refusals happen, too.
    fn new(purchases: Vec<Purchase>) -> Self {
        let mut stock: BTreeMap<Sku, u64> = (0..TITLES).map(|sku| (Sku(sku), 0)).collect();
        let mut accounts = BTreeMap::new();
        for purchase in &purchases {
            *stock.entry(purchase.sku).or_default() += purchase.pieces;
            *accounts.entry(purchase.customer).or_default() += purchase.cents;
        }
        for (sku, pieces) in &mut stock {
            *pieces = if sku.0 % 20 == 7 { *pieces * 7 / 8 } else { *pieces + 3 };
        }
        for (customer, cents) in &mut accounts {
            if customer.0 % 40 == 7 {
                *cents = *cents * 2 / 3;
            }
        }
        Self { purchases, stock, accounts }
    }

    /// Generates a day of `count` purchases, the same for the same seed.
    pub fn generated(count: u64, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let customers = u32::try_from(count / 3 + 1).unwrap_or(u32::MAX);
        let purchase = |number| {
            // The product of two draws favours small numbers: some titles sell much better than
            // others.
            let popularity = random.f64() * random.f64();
            let pieces = 1 + random.u64(0..3) * random.u64(0..2);
            Purchase {
                order: OrderId(number),
                customer: Customer(random.u32(1..=customers)),
                // In range: the popularity is less than 1.
                sku: Sku((popularity * f64::from(TITLES)) as u32),
                pieces,
                cents: pieces * random.u64(799..2_499),
            }
        };
        Self::new((1..=count).map(purchase).collect())
    }

    /// Reads purchases in the form of the CDNOW data set, one a line: customer, customer in the
    /// sample, date as YYYYMMDD, number of CDs, dollars.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let bytes = std::fs::read(path).map_err(|error| ReadError::File { path: path.display().to_string(), error })?;
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        let mut purchases = Vec::with_capacity(lines.len());
        for (number, line) in (1..).zip(lines) {
            let at = |fault: LineFault| ReadError::Line { path: path.display().to_string(), line: number, fault };
            let text = std::str::from_utf8(line).map_err(|_| at(LineFault::NotText))?;
            purchases.push(parse_line(number, text).map_err(at)?);
        }
        if purchases.is_empty() {
            return Err(ReadError::Empty { path: path.display().to_string() });
        }
        Ok(Self::new(purchases))
    }

    /// Returns a number that differs from that of other days, to notice a data directory of another
    /// day.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for p in &self.purchases {
            text += &format!("{} {} {} {} {}\n", p.order.0, p.customer.0, p.sku.0, p.pieces, p.cents);
        }
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }
}

fn parse_line(number: u64, line: &str) -> Result<Purchase, LineFault> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [customer, in_sample, date, pieces, dollars] = fields[..] else {
        return Err(LineFault::Fields { found: fields.len() });
    };
    let whole = |field, text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value: Option<u32> = text.parse().ok().filter(|_| digits);
        value.ok_or_else(|| LineFault::Number { field, text: text.to_owned() })
    };
    let customer = whole("customer", customer)?;
    whole("customer in the sample", in_sample)?;
    if !is_date(date) {
        return Err(LineFault::Date { text: date.to_owned() });
    }
    let pieces = u64::from(whole("number of CDs", pieces)?);
    let cents = parse_dollars(dollars).ok_or_else(|| LineFault::Dollars { text: dollars.to_owned() })?;
    if !(1..=MAX_PIECES).contains(&pieces) || cents > MAX_CENTS {
        return Err(LineFault::Range);
    }
    // The data does not say which CDs; any fixed choice will do.
    let sku = Sku((u64::from(customer).wrapping_mul(31).wrapping_add(number) % u64::from(TITLES)) as u32);
    Ok(Purchase { order: OrderId(number), customer: Customer(customer), sku, pieces, cents })
}

fn is_date(text: &str) -> bool {
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let number = |part: &str| part.parse::<u32>().unwrap_or(0);
    let (year, month, day) = (number(&text[..4]), number(&text[4..6]), number(&text[6..]));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    year > 0 && (1..=days).contains(&day)
}

/// Parses dollars with exactly two digits of cents. Money is whole cents, never a floating-point
/// number.
fn parse_dollars(text: &str) -> Option<u64> {
    let (dollars, cents) = text.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if cents.len() != 2 || !digits(dollars) || !digits(cents) {
        return None;
    }
    dollars.parse::<u64>().ok()?.checked_mul(100)?.checked_add(cents.parse().ok()?)
}

/// Why purchases could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("can't read {path}: {error}")]
    File { path: String, error: std::io::Error },
    #[error("{path}, line {line}: {fault}")]
    Line { path: String, line: u64, fault: LineFault },
    #[error("{path} holds no purchases")]
    Empty { path: String },
}

/// What is wrong with a line.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LineFault {
    #[error("not text")]
    NotText,
    #[error("{found} fields, but a purchase has 5: customer, customer in the sample, YYYYMMDD, number of CDs, dollars")]
    Fields { found: usize },
    #[error("{field} is {text:?}, but should be a whole number")]
    Number { field: &'static str, text: String },
    #[error("date is {text:?}, but should be a day as YYYYMMDD")]
    Date { text: String },
    #[error("dollars are {text:?}, but should be like 29.33")]
    Dollars { text: String },
    #[error("a purchase has 1 to {MAX_PIECES} CDs and costs at most {} dollars", MAX_CENTS / 100)]
    Range,
}
