//! What participants write into the database for a branch: the id of its prepared transaction, and the tag of its session.

use ringpact::{BranchId, Epoch, Name, TxnOrdinal, participant::xa::XaPromise};
use xxhash_rust::xxh3::xxh3_64;

/// Maximum length of a prepared transaction's id in PostgreSQL, in bytes (its `GIDSIZE` less the terminator).
#[cfg(test)]
const MAX_GID_BYTES: usize = 199;

/// What stands between the branch and the position in an id. No name has it.
const BEFORE_POSITION: char = '@';

/// Returns the id under which PostgreSQL keeps the promise. Two names of 64 bytes and three numbers make 192 bytes at most.
pub(crate) fn gid(promise: &XaPromise) -> String {
    format!("{}{}", gid_prefix(&promise.branch), promise.position)
}

/// Returns what the ids of the branch's promise begin with, whatever its position is.
pub(crate) fn gid_prefix(branch: &BranchId) -> String {
    format!("{branch}{BEFORE_POSITION}")
}

/// Returns what the ids of all promises to the coordinator begin with.
pub(crate) fn coordinator_prefix(coordinator: &Name) -> String {
    format!("{coordinator}:")
}

/// Reads an id back. Returns `None` if [`gid`] does not make it: other software prepares transactions, too.
pub(crate) fn parse_gid(text: &str) -> Option<XaPromise> {
    let (branch, position) = text.split_once(BEFORE_POSITION)?;
    let promise = XaPromise::new(branch.parse().ok()?, position.parse().ok()?);
    (gid(&promise) == text).then_some(promise)
}

/// Returns the tag that the branch's session carries as its `application_name`: 59 bytes of the 63 that PostgreSQL keeps.
///
/// The names don't fit, so a hash stands for them: XXH3-64 of the participant, a zero byte and the coordinator, with seed 0.
/// The tag is also the key of the branch's marker, so two pairs of names with one hash would be confused: one chance in 2^64
/// for each two pairs of one database.
pub(crate) fn tag(branch: &BranchId) -> String {
    tag_of(branch.participant(), branch.txn().coordinator(), branch.txn().ordinal())
}

/// Returns the tag of the participant's branch of the coordinator's transaction with this number.
pub(crate) fn tag_of(participant: &Name, coordinator: &Name, txn: TxnOrdinal) -> String {
    let prefix = tag_prefix(participant, coordinator);
    format!("{prefix}{:016x} {:016x}", txn.epoch.as_u64(), txn.sequence)
}

/// Returns what the tags of all branches of this life of the coordinator begin with.
pub(crate) fn tag_of_life(participant: &Name, coordinator: &Name, epoch: Epoch) -> String {
    format!("{}{:016x}", tag_prefix(participant, coordinator), epoch.as_u64())
}

/// Returns what the tags of all the coordinator's branches begin with.
pub(crate) fn tag_prefix(participant: &Name, coordinator: &Name) -> String {
    let hash = xxh3_64(format!("{participant}\0{coordinator}").as_bytes());
    format!("ringpact {hash:016x} ")
}

/// Returns the tag of a transaction of a service with tables: 49 bytes at most. `process` is a number of this process that no other
/// has, by chance. No tag of a branch begins so.
pub(crate) fn tables_tag(process: u64, transaction: u64) -> String {
    format!("ringpact tables {process:016x} {transaction:x}")
}

/// Returns a text as a literal of SQL, whatever is in it and however the server is set up.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use ringpact::TxnId;

    use super::*;

    fn longest() -> BranchId {
        let name = |byte: &str| Name::new(&byte.repeat(64)).expect("a name");
        TxnId::new(name("c"), Epoch::new(u64::MAX), u64::MAX).branch(&name("p"))
    }

    #[test]
    fn the_longest_names_and_numbers_fit_and_are_read_back() {
        let promise = XaPromise::new(longest(), u64::MAX);
        let id = gid(&promise);
        assert!(id.len() <= MAX_GID_BYTES, "{} bytes", id.len());
        assert_eq!(parse_gid(&id), Some(promise));
        assert!(tag(&longest()).len() <= 63);
    }

    #[test]
    fn the_ids_of_others_are_not_taken_for_own_ones() {
        for text in
            ["", "x", "a:1:2:p", "a:1:2:p@", "a:1:2:p@01", "a:1:2:p@+1", "a:1:2:p@1@1", "a:01:2:p@1", "a:1:2:p@-1"]
        {
            assert_eq!(parse_gid(text), None, "{text}");
        }
    }

    #[test]
    fn the_tag_stays_the_same_in_all_versions() {
        let branch: BranchId = "shop:7:42:goods".parse().expect("an id");
        assert_eq!(tag(&branch), "ringpact 693bbd2108ccfcf6 0000000000000007 000000000000002a");
    }

    #[test]
    fn literals_hold_any_text() {
        assert_eq!(literal("plain"), "'plain'");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'"), r" E'a\\'''");
    }
}
