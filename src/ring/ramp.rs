//! A slow start: a node that has just joined gets its weight in steps.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{HashRing, KeyHasher, Node, RingError};

/// Maximum number of steps of a [`Ramp`]. Each step is a change of the ring that all its users have
/// to get, and moves keys. More steps than these would each move less than a thousandth of what the
/// node gets.
pub const MAX_RAMP_STEPS: u32 = 1_024;

/// A plan that gives a node its weight in equal steps, so that a cold cache, or a service that has
/// to warm up, gets its keys little by little. It is plain data, and decides nothing by itself: the
/// caller asks it what is due and changes the ring.
///
/// The first step is due at the start, with the weight divided by the number of steps; the last one
/// is due after the duration, with the whole weight. Weights are rounded up. This is linear, as the
/// slow starts of Envoy (with its default `aggression`) and of HAProxy are.
///
/// **A ramp moves no more than joining at once.** With hashed placement, a lighter node has some of
/// the tokens of a heavier one. So each step only moves keys to the node, from other nodes. All steps
/// together move exactly what [`add`](HashRing::add) with the whole weight would move.
/// With balanced placement, too, each step only moves keys to the node.
///
/// **Units.** Weights are whole numbers, so a node of weight 1 has no steps. Give the ring finer
/// units first: [`HashRing::refine_weights`] multiplies all weights and divides the virtual nodes by
/// one factor, and moves nothing. With 10 virtual nodes for each unit instead of 160, what was
/// weight 1 is weight 16. This is one setting of the ring, made once. A share of a node's weight in
/// each node would be a second weight, which every user of weights would have to know: capacities
/// of [`BoundedLoads`](super::BoundedLoads), [subsets](super::Subset), other software. Now they see
/// a lighter node.
///
/// Time is an argument: the system's time, so that a ramp can be saved, and go on after a restart or
/// in another process. A clock that goes back does no harm, because no step takes weight away.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use ringpact::ring::{HashRing, Node, Ramp};
///
/// let mut ring = HashRing::new(["a", "b", "c"])?;
/// ring.refine_weights(16)?;
/// assert_eq!((ring.node("a").unwrap().weight(), ring.virtual_nodes()), (16, 10));
///
/// // "d" gets a quarter of its weight at once, and all of it after a minute.
/// let start = SystemTime::now();
/// let ramp = Ramp::new(Node::new("d").with_weight(16), start, Duration::from_secs(60), 4)?;
/// ramp.apply(&mut ring, start)?;
/// assert_eq!(ring.node("d").unwrap().weight(), 4);
///
/// let next = ramp.next_step(start).unwrap();
/// assert_eq!(next, start + Duration::from_secs(20));
/// ramp.apply(&mut ring, next)?;
/// assert_eq!(ring.node("d").unwrap().weight(), 8);
///
/// ramp.apply(&mut ring, start + Duration::from_secs(60))?;
/// assert_eq!(ring.node("d").unwrap().weight(), 16);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Ramp {
    /// The node with its whole weight, at least `steps`.
    node: Node,
    start: SystemTime,
    duration: Duration,
    /// From 1 to [`MAX_RAMP_STEPS`].
    steps: u32,
}

impl Ramp {
    /// Returns the plan that `node` joins at `start` with the first of this many steps, and has its
    /// whole weight after `duration`.
    ///
    /// # Errors
    ///
    /// [`RingError::RampSteps`] if there is no step, or more than [`MAX_RAMP_STEPS`] or than the
    /// node's weight has units. [`RingError::RampEnd`] if the end is beyond what the system's time
    /// can express. The errors of [`RingBuilder::build`](super::RingBuilder::build) about nodes.
    pub fn new(node: impl Into<Node>, start: SystemTime, duration: Duration, steps: u32) -> Result<Self, RingError> {
        let node = node.into();
        node.check()?;
        let most = node.weight().min(MAX_RAMP_STEPS);
        if !(1..=most).contains(&steps) {
            return Err(RingError::RampSteps { id: node.id().clone(), weight: node.weight(), steps });
        }
        if start.checked_add(duration).is_none() {
            return Err(RingError::RampEnd { id: node.id().clone() });
        }
        Ok(Self { node, start, duration, steps })
    }

    /// Returns the node with its whole weight.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns all steps: the time from which each is due, and the node's weight from then on.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = (SystemTime, u32)> + '_ {
        (0..self.steps).map(|step| (self.due(step), self.weight(step)))
    }

    /// Returns the weight that is due at `now`. Before the start, it is that of the first step.
    #[must_use]
    pub fn weight_at(&self, now: SystemTime) -> u32 {
        self.weight(self.step_at(now))
    }

    /// Returns the node with the weight that is due at `now`.
    #[must_use]
    pub fn node_at(&self, now: SystemTime) -> Node {
        self.node.clone().with_weight(self.weight_at(now))
    }

    /// Returns when the next step after `now` is due, or `None` if the node has its whole weight.
    /// Before the start, it is the start.
    #[must_use]
    pub fn next_step(&self, now: SystemTime) -> Option<SystemTime> {
        if now < self.start {
            return Some(self.start);
        }
        let next = self.step_at(now) + 1;
        (next < self.steps).then(|| self.due(next))
    }

    /// Whether the node's whole weight is due at `now`.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.step_at(now) + 1 == self.steps
    }

    /// Makes the change of `ring` that is due at `now`: adds the node, or raises its weight. Returns
    /// whether there was a change to make. The zone and the draining mark of a member stay as they
    /// are.
    ///
    /// With a [`SharedRing`](super::SharedRing), call it inside
    /// [`update`](super::SharedRing::update) if [`is_due`](Self::is_due) says so, because each update
    /// makes a version.
    ///
    /// # Errors
    ///
    /// The errors of [`add`](HashRing::add) and [`replace`](HashRing::replace) about limits. The ring
    /// is then unchanged.
    pub fn apply<H: KeyHasher>(&self, ring: &mut HashRing<H>, now: SystemTime) -> Result<bool, RingError> {
        if !self.is_due(ring, now) {
            return Ok(false);
        }
        match ring.node(self.node.id()).cloned() {
            Some(member) => drop(ring.replace(member.with_weight(self.weight_at(now)))?),
            None => ring.add(self.node_at(now))?,
        }
        Ok(true)
    }

    /// Whether `ring` is to be changed at `now`: the node isn't in it, or has less than the weight
    /// that is due. Before the start, no change is due.
    #[must_use]
    pub fn is_due<H>(&self, ring: &HashRing<H>, now: SystemTime) -> bool {
        now >= self.start && ring.node(self.node.id()).is_none_or(|member| member.weight() < self.weight_at(now))
    }

    /// Returns the number of the latest step that is due, from 0.
    fn step_at(&self, now: SystemTime) -> u32 {
        let passed = now.duration_since(self.start).unwrap_or_default();
        if passed >= self.duration {
            return self.steps - 1;
        }
        // The step is below the last one, and so fits.
        let step = (passed.as_nanos() * u128::from(self.steps - 1) / self.duration.as_nanos()) as u32;
        // Systems round times, to 100 ns for instance. A step is due at the time that was promised.
        step + u32::from(self.due(step + 1) <= now)
    }

    /// Returns when a step is due: rounded up to a nanosecond, so that it is due at that time.
    fn due(&self, step: u32) -> SystemTime {
        let nanos = (self.duration.as_nanos() * u128::from(step)).div_ceil(u128::from(self.steps - 1).max(1));
        const NANOS: u128 = 1_000_000_000;
        // The end of the ramp is a time that the system can express, so an earlier one is, too.
        self.start + Duration::new((nanos / NANOS) as u64, (nanos % NANOS) as u32)
    }

    fn weight(&self, step: u32) -> u32 {
        (u64::from(self.node.weight()) * u64::from(step + 1)).div_ceil(u64::from(self.steps)) as u32
    }
}

/// The wire form.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Ramp", deny_unknown_fields)]
struct Form {
    node: Node,
    start: SystemTime,
    duration: Duration,
    steps: u32,
}

impl From<Ramp> for Form {
    fn from(ramp: Ramp) -> Self {
        let Ramp { node, start, duration, steps } = ramp;
        Self { node, start, duration, steps }
    }
}

impl TryFrom<Form> for Ramp {
    type Error = RingError;

    fn try_from(form: Form) -> Result<Self, RingError> {
        Self::new(form.node, form.start, form.duration, form.steps)
    }
}

/// Units of weight.
impl<H> HashRing<H> {
    /// Multiplies the weight of every node by `factor`, and divides the number of virtual nodes for
    /// each unit by it. So each node has the same tokens, and nothing moves, but weights can be
    /// changed in smaller steps. O(N).
    ///
    /// All processes that build the ring have to do the same, with the settings or with the
    /// serialised ring. (A balanced ring that is built afresh with finer units has other tokens.) The
    /// [subsets](super::Subset) of tenants change, because weights choose them.
    ///
    /// # Errors
    ///
    /// [`RingError::UnevenUnits`] if `factor` does not divide the number of virtual nodes. The ring
    /// is then unchanged.
    pub fn refine_weights(&mut self, factor: u32) -> Result<(), RingError> {
        let virtual_nodes = self.virtual_nodes();
        if factor == 0 || !virtual_nodes.is_multiple_of(factor) {
            return Err(RingError::UnevenUnits { virtual_nodes, factor });
        }
        // A product fits, because it is at most the node's number of tokens.
        self.scale_units(virtual_nodes / factor, |weight| weight * factor);
        Ok(())
    }
}
