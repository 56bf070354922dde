//! What a node takes when it joins.

use super::{
    super::{members::Members, token_table::TokenTable},
    MovedRange, Movement, Node, Position, PositionRange,
    between::Moves,
};

impl<'a> Movement<'a> {
    /// Returns what moves to `node`, which isn't a member, if it joins with these tokens, which
    /// ascend and are distinct. If a token is on the position of another node's token, `keeps` says
    /// whether that node keeps the position.
    ///
    /// Looks at the new tokens and their neighbours only: each takes the stretch from the token
    /// before it, of any node, up to itself.
    pub(in crate::ring) fn of_join(
        (members, table): (&'a Members, &TokenTable),
        node: &'a Node,
        tokens: &[Position],
        keeps: impl Fn(&Node) -> bool,
    ) -> Self {
        let mut moves = Moves::with_capacity(tokens.len());
        let mut last = tokens.last().copied();
        for &end in tokens {
            let neighbours = table.neighbours(end);
            let stays = neighbours.is_at && keeps(members.by_slot(neighbours.owner));
            if !stays {
                // The stretch starts at the nearer of two tokens: the last one of the others, and
                // the last one of `node`. A token on the same position is a whole lap away.
                let back = |token: &Position| end.as_u64().wrapping_sub(token.as_u64()).wrapping_sub(1);
                let start = last.into_iter().chain([neighbours.before]).min_by_key(back).unwrap_or(end);
                let from = members.by_slot(neighbours.owner);
                moves.push(MovedRange { range: PositionRange { start, end }, from, to: node }, (neighbours.owner, 0));
            }
            last = Some(end);
        }
        moves.finish()
    }
}
