//! Which rows are records: [`ShardTable`], and the column with the position.

use ringpact::ring::Position;

/// What is added to a position modulo 2^64, so that its order is that of signed numbers.
const SIGN: u64 = 1 << 63;

/// Returns what the column has for a position: the position less 2^63.
///
/// The column is a `bigint`, which has the range of a position and is signed, so all of them move down by half. The order stays:
/// `ORDER BY position` and `BETWEEN` are right, and an index on the column serves both. `numeric(20)` would hold the number
/// itself, but takes 12 to 16 bytes instead of 8 in each row and index entry, is compared digit by digit, and leaves each key
/// with other bytes than the client library sends. To read the position in SQL: `position::numeric + 9223372036854775808`.
///
/// ```
/// use ringpact::ring::Position;
/// use ringpact_postgres::{column_of, position_of};
///
/// assert_eq!([0, 1 << 63, u64::MAX].map(|at| column_of(Position::new(at))), [i64::MIN, 0, i64::MAX]);
/// assert_eq!(position_of(i64::MIN), Position::new(0));
/// ```
#[must_use]
pub const fn column_of(position: Position) -> i64 {
    (position.as_u64() ^ SIGN).cast_signed()
}

/// Returns the position for which the column has this value.
#[must_use]
pub const fn position_of(column: i64) -> Position {
    Position::new(column.cast_unsigned() ^ SIGN)
}

/// A table with records of a shard: which columns move, and which has the position. The
/// [opening](crate::PgBuilder::open_shard) checks it.
///
/// A shard may have several: an order and its lines, say. Name a table before those that refer to it: rows are inserted in this
/// order, and deleted in the opposite one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a table of a shard does nothing until the shard is opened with it"]
pub struct ShardTable {
    pub(super) name: String,
    pub(super) position: String,
    pub(super) columns: Vec<String>,
}

impl ShardTable {
    /// The table of this name, as SQL has it: with its schema if that is not in the search path, and in quotes if it needs
    /// them. The position is in the column `position`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), position: "position".to_owned(), columns: Vec::new() }
    }

    /// Has the position in the column of this name.
    pub fn position(mut self, column: impl Into<String>) -> Self {
        self.position = column.into();
        self
    }

    /// Moves these columns, besides the position. All others have their defaults at the new shard: what is set aside belongs
    /// there. Names are as they are stored, without quotes.
    pub fn columns<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.columns = columns.into_iter().map(Into::into).collect();
        self
    }
}

/// A table with its names as SQL has them.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) name: String,
    pub(super) position: String,
    /// The position's column, and those that move, with commas.
    pub(super) columns: String,
}
