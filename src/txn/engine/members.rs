//! The participants of a coordinator, and how it reaches each of them.
//!
//! Each participant has a [`Slot`] with a number that never changes and is never given to another
//! participant. So a transaction looks a name up once, and then needs neither a lock nor a reference
//! count of its own: while it is open and has a branch there, the slot keeps the participant. A slot
//! outlives its participant, because a late message may still carry its number. It is freed with the
//! coordinator: about a kilobyte for each participant that was ever added.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    ops::Index,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::{
    id::Name,
    participant::{self, Endpoint, Greeting, LastResourceMemory, Life, Participant, ParticipantError, Reply, Request},
    platform::Platform,
    txn::{
        engine::{breakers::Breaker, circuit::Settings, lanes::Lane},
        table::parked::HeldBack,
    },
};

/// One participant.
pub(in crate::txn) struct Member {
    pub(in crate::txn) reach: Reach,
    /// The participant as a last resource, if it is one: it commits once all others have promised.
    pub(in crate::txn) last_resource: Option<LastResourceMemory>,
}

/// How a participant is reached.
pub(in crate::txn) enum Reach {
    /// The thread that drives a transaction calls it, and has the answer when the call returns.
    AtOnce(Arc<dyn Participant>),
    /// The coordinator sends it messages. Such participants are asked first, and work while the
    /// others are asked.
    Later(Arc<dyn Endpoint>),
}

impl Member {
    /// Sends the request. Either kind may panic; then the dropped reply is the answer.
    pub(in crate::txn) fn send(&self, request: Request, reply: Reply) {
        match &self.reach {
            Reach::AtOnce(participant) => reply.send(participant::call(&**participant, &request)),
            Reach::Later(endpoint) => endpoint.send(request, reply),
        }
    }

    /// Introduces a coordinator to a participant that answers at once. Does nothing for others.
    pub(in crate::txn) fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        match &self.reach {
            Reach::AtOnce(participant) => participant.meet(coordinator, life),
            Reach::Later(_) => Ok(()),
        }
    }

    /// The name that the participant knows itself by, if it says so.
    pub(in crate::txn) fn own_name(&self) -> Option<Name> {
        match &self.reach {
            Reach::AtOnce(participant) => participant.own_name(),
            Reach::Later(endpoint) => endpoint.own_name(),
        }
    }

    /// Whether a message to the participant is sent without a wait for anything of the participant's.
    pub(in crate::txn) fn sends_at_once(&self) -> bool {
        match &self.reach {
            Reach::AtOnce(_) => false,
            Reach::Later(endpoint) => catch_unwind(AssertUnwindSafe(|| endpoint.sends_at_once())).unwrap_or(false),
        }
    }

    /// Whether the participant can promise, or need not: a last resource is never asked to.
    pub(in crate::txn) fn may_take_part(&self) -> bool {
        match &self.reach {
            Reach::Later(endpoint) if self.last_resource.is_none() => endpoint.can_promise(),
            Reach::Later(_) | Reach::AtOnce(_) => true,
        }
    }

    /// Whether the participant says of an error that it may not come again.
    pub(in crate::txn) fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        match &self.reach {
            Reach::AtOnce(participant) => participant.is_transient(error),
            Reach::Later(endpoint) => endpoint.is_transient(error),
        }
    }

    pub(in crate::txn) fn greet(&self, greeting: &Greeting) {
        match &self.reach {
            Reach::AtOnce(participant) => participant.greet(greeting),
            Reach::Later(endpoint) => endpoint.greet(greeting),
        }
    }

    /// Whether it is a last resource that remembers what it has committed. One that panics over the
    /// question does not remember.
    fn remembers(&self) -> bool {
        let asks = |resource: &LastResourceMemory| catch_unwind(AssertUnwindSafe(|| resource.remembers()));
        self.last_resource.as_ref().is_some_and(|resource| asks(resource).unwrap_or(false))
    }
}

/// Whether a participant takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::txn) enum MemberStanding {
    Takes = 0,
    /// It gets no new branches, and is told how its present ones end.
    Retires = 1,
    /// It is dropped. The slot is left.
    Gone = 2,
}

/// What the coordinator keeps of one participant.
pub(in crate::txn) struct Slot {
    pub(in crate::txn) name: Name,
    /// Whether its caller has the answer when the call returns.
    pub(in crate::txn) is_at_once: bool,
    pub(in crate::txn) is_last_resource: bool,
    /// Whether it is a last resource that remembers what it has committed. It was asked once, because
    /// the question is foreign code.
    pub(in crate::txn) remembers: bool,
    standing: AtomicU8,
    /// The participant, if it was named to the builder and answers at once: what most messages go to.
    /// It is kept for as long as the coordinator, because a reference that can be taken away costs each
    /// message 20 ns, and with two participants a transaction in memory 7% more.
    kept: Option<Arc<dyn Participant>>,
    /// Every participant, until it is gone. Readers never wait.
    member: ArcSwapOption<Member>,
    pub(in crate::txn) lane: Arc<Lane>,
    pub(in crate::txn) breaker: CachePadded<Breaker>,
    /// What holds back `ended_below` of this participant alone.
    pub(in crate::txn) held: CachePadded<HeldBack>,
}

impl Slot {
    pub(in crate::txn) fn new(name: Name, member: Member, settings: Settings, platform: &Platform) -> Self {
        Self {
            name,
            kept: None,
            is_at_once: matches!(member.reach, Reach::AtOnce(_)),
            is_last_resource: member.last_resource.is_some(),
            remembers: member.remembers(),
            standing: AtomicU8::new(MemberStanding::Takes as u8),
            member: ArcSwapOption::from_pointee(member),
            lane: Lane::new(platform.clone()),
            breaker: CachePadded::new(Breaker::new(settings)),
            held: CachePadded::default(),
        }
    }

    /// As [`new`](Self::new), for a participant that is named to the builder.
    fn first(name: Name, member: Member, settings: Settings, platform: &Platform) -> Self {
        let kept = match &member.reach {
            Reach::AtOnce(participant) => Some(Arc::clone(participant)),
            Reach::Later(_) => None,
        };
        Self { kept, ..Self::new(name, member, settings, platform) }
    }

    /// Returns the participant, if it answers at once and can be called without asking for
    /// [`member`](Self::member).
    #[inline]
    pub(in crate::txn) fn kept(&self) -> Option<&Arc<dyn Participant>> {
        self.kept.as_ref().filter(|_| self.standing() != MemberStanding::Gone)
    }

    /// Returns the participant; `None` once it is gone. Hold it for one call only.
    pub(in crate::txn) fn member(&self) -> Guard<Option<Arc<Member>>> {
        self.member.load()
    }

    /// Whether the participant takes new branches. A thread asks under the lock of a transaction that is in
    /// the table. If it is told so, a retirement that begins later sees the branch that it then enlists.
    #[inline]
    pub(in crate::txn) fn standing(&self) -> MemberStanding {
        match self.standing.load(Ordering::SeqCst) {
            0 => MemberStanding::Takes,
            1 => MemberStanding::Retires,
            _ => MemberStanding::Gone,
        }
    }

    fn stands(&self, standing: MemberStanding) {
        self.standing.store(standing as u8, Ordering::SeqCst);
    }

    /// Takes the participant out. The caller drops it under no lock.
    pub(in crate::txn) fn take_member(&self) -> Option<Arc<Member>> {
        self.member.swap(None)
    }
}

/// All participants by their numbers, and the numbers by their names. Those of the opening have the
/// first numbers, in the order of their names: to find one costs no more than it did before others could
/// be added.
pub(in crate::txn) struct Members {
    first_names: Box<[Name]>,
    first: Box<[Slot]>,
    /// In a box, because it is large and seldom read.
    later: Box<LaterSlots>,
    /// Names and numbers of the later ones that are not gone, in the order of the names.
    later_names: ArcSwap<Vec<(Name, usize)>>,
    /// The last resources that remember what they have committed. They are all there from the opening on.
    remembering: Box<[Name]>,
    /// Names that are being added. Held while the names change.
    joining: Mutex<BTreeSet<Name>>,
}

/// Why a name cannot be added.
pub(in crate::txn) enum Taken {
    /// A participant has it, or is being added under it.
    ByMember,
    /// A participant has it that retires.
    ByRetiring,
}

impl Members {
    pub(in crate::txn) fn new(members: BTreeMap<Name, Member>, settings: Settings, platform: &Platform) -> Self {
        let first_names: Box<[Name]> = members.keys().cloned().collect();
        let slots = members.into_iter().map(|(name, member)| Slot::first(name, member, settings, platform));
        let first: Box<[Slot]> = slots.collect();
        let remembering = first.iter().filter(|slot| slot.remembers).map(|slot| slot.name.clone()).collect();
        Self {
            first_names,
            first,
            later: Box::default(),
            later_names: ArcSwap::default(),
            remembering,
            joining: Mutex::default(),
        }
    }

    /// Returns the number of the participant with this name, unless it is gone. O(log n) in the
    /// participants.
    #[inline]
    pub(in crate::txn) fn find(&self, name: &str) -> Option<usize> {
        if let Ok(number) = self.first_names.binary_search_by(|other| other.as_str().cmp(name))
            && self.first[number].standing() != MemberStanding::Gone
        {
            return Some(number);
        }
        self.find_later(name)
    }

    #[cold]
    fn later_slot(&self, number: usize) -> &Slot {
        self.later.get(number - self.first.len())
    }

    #[cold]
    fn find_later(&self, name: &str) -> Option<usize> {
        let names = self.later_names.load();
        names.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok().map(|place| names[place].1)
    }

    /// Whether the caller of the participant with this number has its answer when the call returns.
    /// `None` is a participant that does not exist: it cannot be reached, which is known at once.
    #[inline]
    pub(in crate::txn) fn answers_at_once(&self, number: Option<usize>) -> bool {
        number.is_none_or(|number| self[number].is_at_once)
    }

    /// Returns the names of the last resources that remember what they have committed.
    pub(in crate::txn) const fn remembering(&self) -> &[Name] {
        &self.remembering
    }

    /// Returns the slots of all participants that were ever added.
    pub(in crate::txn) fn all(&self) -> impl Iterator<Item = &Slot> {
        self.first.iter().chain(self.later.iter())
    }

    /// Returns the slots of the participants that are not gone.
    pub(in crate::txn) fn present(&self) -> impl Iterator<Item = &Slot> {
        self.all().filter(|slot| slot.standing() != MemberStanding::Gone)
    }

    /// Reserves a name for a participant that is being added.
    pub(in crate::txn) fn reserve(&self, name: &Name) -> Result<JoiningName<'_>, Taken> {
        let mut joining = self.joining.lock();
        match self.find(name.as_str()).map(|number| self[number].standing()) {
            Some(MemberStanding::Retires) => return Err(Taken::ByRetiring),
            Some(MemberStanding::Takes) => return Err(Taken::ByMember),
            Some(MemberStanding::Gone) | None => {}
        }
        if !joining.insert(name.clone()) {
            return Err(Taken::ByMember);
        }
        Ok(JoiningName { members: self, name: name.clone() })
    }

    /// Makes the participant retire. Returns its number; or as an error its standing, if it does not
    /// take part.
    pub(in crate::txn) fn retires(&self, name: &Name) -> Result<usize, Option<MemberStanding>> {
        let _changes = self.joining.lock();
        let number = self.find(name.as_str()).ok_or(None)?;
        match self[number].standing() {
            MemberStanding::Takes => {
                self[number].stands(MemberStanding::Retires);
                Ok(number)
            }
            other => Err(Some(other)),
        }
    }

    /// Notes that a participant that retires is gone, and frees its name.
    pub(in crate::txn) fn leaves(&self, number: usize) {
        let _changes = self.joining.lock();
        self[number].stands(MemberStanding::Gone);
        if number >= self.first.len() {
            let mut names = Vec::clone(&self.later_names.load());
            names.retain(|(_, other)| *other != number);
            self.later_names.store(Arc::new(names));
        }
    }
}

impl Index<usize> for Members {
    type Output = Slot;

    #[inline]
    fn index(&self, number: usize) -> &Slot {
        match self.first.get(number) {
            Some(slot) => slot,
            None => self.later_slot(number),
        }
    }
}

/// A name that is being added. Dropped, it is free again, unless it was added.
pub(in crate::txn) struct JoiningName<'a> {
    members: &'a Members,
    name: Name,
}

impl JoiningName<'_> {
    /// Adds the slot under this name, and returns its number. `prepare` gets the number before another
    /// thread can find the participant.
    pub(in crate::txn) fn join(self, slot: Slot, prepare: impl FnOnce(usize, &Slot)) -> usize {
        let members = self.members;
        let changes = members.joining.lock();
        let number = members.first.len() + members.later.push(slot);
        prepare(number, &members[number]);
        let mut names = Vec::clone(&members.later_names.load());
        let place = names.partition_point(|(other, _)| *other < self.name);
        names.insert(place, (self.name.clone(), number));
        members.later_names.store(Arc::new(names));
        drop(changes); // before the drop of this value asks for it
        number
    }
}

impl Drop for JoiningName<'_> {
    fn drop(&mut self) {
        self.members.joining.lock().remove(&self.name);
    }
}

/// Number of slots in the first chunk. Each further chunk has twice as many.
const FIRST_CHUNK: usize = 16;

/// Number of chunks. Together they have room for more participants than memory has.
const CHUNKS: usize = 32;

/// Places for slots. Each is filled once.
type Chunk = Box<[OnceLock<Box<Slot>>]>;

/// Slots that are added one by one and never move, so that they can be read without a lock.
struct LaterSlots {
    chunks: [OnceLock<Chunk>; CHUNKS],
    count: AtomicUsize,
}

impl Default for LaterSlots {
    fn default() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], count: AtomicUsize::new(0) }
    }
}

impl LaterSlots {
    /// Returns the chunk and the place in it.
    const fn place(index: usize) -> (usize, usize) {
        let chunk = (index / FIRST_CHUNK + 1).ilog2() as usize;
        (chunk, index - FIRST_CHUNK * ((1 << chunk) - 1))
    }

    /// Adds a slot, and returns its index. One thread at a time.
    fn push(&self, slot: Slot) -> usize {
        let index = self.count.load(Ordering::Acquire);
        let (chunk, place) = Self::place(index);
        let new = || (0..FIRST_CHUNK << chunk).map(|_| OnceLock::new()).collect();
        let _new = self.chunks[chunk].get_or_init(new)[place].set(Box::new(slot));
        self.count.store(index + 1, Ordering::Release);
        index
    }

    fn get(&self, index: usize) -> &Slot {
        let (chunk, place) = Self::place(index);
        let slot = self.chunks[chunk].get().and_then(|chunk| chunk[place].get());
        slot.expect("numbers are given out with their slots")
    }

    fn iter(&self) -> impl Iterator<Item = &Slot> {
        (0..self.count.load(Ordering::Acquire)).map(|index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_each_other_without_a_gap() {
        let mut next = (0, 0);
        for index in 0..100_000 {
            let (chunk, place) = LaterSlots::place(index);
            assert_eq!((chunk, place), next);
            next = if place + 1 == FIRST_CHUNK << chunk { (chunk + 1, 0) } else { (chunk, place + 1) };
        }
    }
}
