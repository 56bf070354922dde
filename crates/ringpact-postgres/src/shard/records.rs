//! Export, import and discard. A record is a table's number and a row as `COPY` writes it, without the position: exact for
//! every type that a dump can hold, nulls as well, and read by the server that wrote it.

use std::{collections::VecDeque, pin::pin};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use ringpact::{
    ServiceError,
    participant::tables::AsyncService,
    ring::PositionRange,
    sharding::{Export, Records},
};

use super::{
    PgShard, Resolved, column_of, position_of,
    step::{Failure, Keep, ask},
};
use crate::PgTx;

/// What makes a row the same text in each database.
const FORMATS: &str = "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC'; \
                       SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'";

/// Number of rows of the first page of an export.
const FIRST_ROWS: usize = 128;

/// Number of bytes that a page is meant to have: about a chunk.
const PAGE_BYTES: usize = 64 << 10;

/// Maximum number of rows of a page.
const MAX_ROWS: usize = 4096;

/// Number of rows that one transaction of a discard deletes in a table.
const DISCARDED_AT_ONCE: u64 = 10_000;

/// A part of a range that does not pass 0, as values of the column.
type Segment = (i64, i64);

/// Returns the parts of the range, clockwise from its start.
fn clockwise(range: PositionRange) -> Vec<Segment> {
    let column = |position| column_of(ringpact::ring::Position::new(position));
    let mut segments: Vec<_> = range.segments().map(|part| (column(*part.start()), column(*part.end()))).collect();
    // Two parts come in the order of their numbers, and the first is behind 0.
    segments.reverse();
    segments
}

/// Returns the condition on rows in the range.
fn is_in(range: PositionRange, table: &Resolved) -> String {
    let parts = clockwise(range).into_iter().map(|segment| is_between(segment, table));
    parts.collect::<Vec<_>>().join(" OR ")
}

fn is_between((from, to): Segment, Resolved { position, .. }: &Resolved) -> String {
    // The least number without its quotes would be a numeric, for which the index does not serve.
    format!("{position} BETWEEN '{from}'::bigint AND '{to}'::bigint")
}

/// The rows of one table in a segment, in the order of positions, a page at a time.
struct Pages<'a> {
    table: &'a Resolved,
    number: u8,
    /// Where the next page begins; `None` after the last one.
    next: Option<i64>,
    end: i64,
    page: VecDeque<(i64, Vec<u8>)>,
    rows: usize,
}

impl<'a> Pages<'a> {
    fn new(number: usize, table: &'a Resolved, (from, end): Segment) -> Self {
        // The opening has checked the number of tables.
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        Self { table, number, next: Some(from), end, page: VecDeque::new(), rows: FIRST_ROWS }
    }

    /// Reads the next page if this one is used up.
    async fn fill(&mut self, tx: &PgTx) -> Result<(), Failure> {
        let (Some(from), true) = (self.next, self.page.is_empty()) else { return Ok(()) };
        let Resolved { name, position, columns } = self.table;
        // With ties, so that the next page begins behind a whole position.
        let statement = format!(
            "COPY (SELECT {columns} FROM {name} WHERE {} ORDER BY {position} FETCH FIRST {} ROWS WITH TIES) TO STDOUT",
            is_between((from, self.end), self.table),
            self.rows
        );
        let mut stream = pin!(tx.copy_out(&*statement).await?);
        let (mut rest, mut bytes) = (Vec::new(), 0);
        while let Some(part) = stream.next().await {
            let part = part?;
            bytes += part.len();
            rest.extend_from_slice(&part);
            let mut begun = 0;
            while let Some(length) = rest[begun..].iter().position(|byte| *byte == b'\n') {
                self.page.push_back(self.record(&rest[begun..begun + length])?);
                begun += length + 1;
            }
            rest.drain(..begun);
        }
        let last = self.page.back().map(|(position, _)| *position);
        let is_last = self.page.len() < self.rows;
        self.next = last.filter(|last| !is_last && *last < self.end).map(|last| last + 1);
        self.rows = (PAGE_BYTES * self.page.len().max(1) / bytes.max(1)).clamp(1, MAX_ROWS);
        Ok(())
    }

    /// Reads a line: the position, a tab, and the rest of the row.
    fn record(&self, line: &[u8]) -> Result<(i64, Vec<u8>), Failure> {
        let read = || {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            let position = std::str::from_utf8(&line[..tab]).ok()?.parse().ok()?;
            Some((position, [&[self.number], &line[tab + 1..]].concat()))
        };
        read().ok_or_else(|| Failure::Service("the database has sent a row in a form that was not expected".into()))
    }
}

impl<S: AsyncService<PgTx>> PgShard<S> {
    pub(super) async fn export_to(&self, range: PositionRange, into: &mut Export) -> Result<(), Failure> {
        let tx = self.begin().await?;
        // What was pushed can't be taken back, so it is not tried again here.
        let mut pass = async |tx: &mut PgTx| {
            ask(tx, FORMATS).await?;
            self.pass(tx, range, into).await?;
            Ok(((), Keep::Nothing))
        };
        self.end(tx, &mut pass).await
    }

    async fn pass(&self, tx: &PgTx, range: PositionRange, into: &mut Export) -> Result<(), Failure> {
        for segment in clockwise(range) {
            let tables = self.records.iter().enumerate();
            let mut tables: Vec<_> = tables.map(|(number, table)| Pages::new(number, table, segment)).collect();
            loop {
                for table in &mut tables {
                    table.fill(tx).await?;
                }
                let first = tables.iter().enumerate().filter_map(|(index, table)| Some((table.page.front()?.0, index)));
                let Some((_, index)) = first.min() else { break };
                if let Some((position, record)) = tables[index].page.pop_front()
                    && into.push(position_of(position), &record).is_break()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) async fn import_from(&self, range: PositionRange, records: Records<'_>) -> Result<(), Failure> {
        let lines = self.lines(records)?;
        self.step(async |tx| {
            ask(tx, FORMATS).await?;
            let deletes = self.records.iter().rev();
            let deletes = deletes.map(|table| format!("DELETE FROM {} WHERE {}", table.name, is_in(range, table)));
            ask(tx, &deletes.collect::<Vec<_>>().join("; ")).await?;
            for (Resolved { name, columns, .. }, lines) in self.records.iter().zip(&lines) {
                if !lines.is_empty() {
                    let mut sink = pin!(tx.copy_in(&*format!("COPY {name} ({columns}) FROM STDIN")).await?);
                    sink.send(lines.clone()).await?;
                    sink.finish().await?;
                }
            }
            Ok(((), Keep::All))
        })
        .await
    }

    /// Returns the rows of each table as `COPY` reads them.
    fn lines(&self, records: Records<'_>) -> Result<Vec<Bytes>, Failure> {
        let mut lines = vec![Vec::new(); self.records.len()];
        for (position, record) in records {
            let of_table =
                record.split_first().and_then(|(number, row)| Some((lines.get_mut(usize::from(*number))?, row)));
            // A line's end would begin a row with a position of its own.
            let Some((lines, row)) = of_table.filter(|(_, row)| !row.iter().any(|byte| matches!(byte, b'\n' | b'\r')))
            else {
                let error =
                    "the records are not those of this shard's tables; open all shards of a service with the same ones";
                return Err(Failure::Service(ServiceError::from(error)));
            };
            lines.extend_from_slice(column_of(position).to_string().as_bytes());
            lines.push(b'\t');
            lines.extend_from_slice(row);
            lines.push(b'\n');
        }
        Ok(lines.into_iter().map(Bytes::from).collect())
    }

    /// Deletes the records of the range, a part at a time, so that no transaction is long, however large the range is.
    pub(super) async fn delete(&self, range: PositionRange) -> Result<(), Failure> {
        loop {
            let is_done = self.step(async |tx| Ok((self.delete_some(tx, range).await?, Keep::All))).await?;
            if is_done {
                return Ok(());
            }
        }
    }

    /// Returns whether nothing is left.
    async fn delete_some(&self, tx: &PgTx, range: PositionRange) -> Result<bool, Failure> {
        for table in self.records.iter().rev() {
            let (name, condition) = (&table.name, is_in(range, table));
            // The condition again, because rows of two partitions can have one `ctid`.
            let statement = format!(
                "DELETE FROM {name} WHERE ctid = ANY (ARRAY (SELECT ctid FROM {name} WHERE {condition} \
                 LIMIT {DISCARDED_AT_ONCE})) AND ({condition})"
            );
            if tx.execute(&*statement, &[]).await? >= DISCARDED_AT_ONCE {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
