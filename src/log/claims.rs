//! Which owners' names are taken on an open log.

use std::{collections::BTreeSet, fmt, sync::Arc};

use parking_lot::Mutex;

use super::LogError;
use crate::id::Name;

/// The owners' names that are taken on one log while it is open. A
/// [`TransactionLog`](super::TransactionLog) keeps one to answer
/// [`claim`](super::TransactionLog::claim).
///
/// Clones share the same set of names.
///
/// ```
/// use ringpact::{Name, log::Claims};
///
/// let (claims, shop) = (Claims::default(), Name::new("shop")?);
/// let first = claims.claim(&shop)?;
/// assert!(claims.claim(&shop).is_err());
/// drop(first);
/// assert!(claims.claim(&shop).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Mutex<BTreeSet<Name>>>);

impl Claims {
    /// Takes the name until the returned claim is dropped.
    ///
    /// # Errors
    ///
    /// [`LogError::Claimed`] if it is taken already.
    pub fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        if self.0.lock().insert(owner.clone()) {
            Ok(Claim(Some((self.clone(), owner.clone()))))
        } else {
            Err(LogError::Claimed { owner: owner.clone() })
        }
    }
}

/// Holds an owner's name on a log, and gives it back when it is dropped.
#[must_use = "the name is given back when this is dropped"]
pub struct Claim(Option<(Claims, Name)>);

impl Claim {
    /// Returns a claim that holds no name: for logs that do not check.
    pub const fn unchecked() -> Self {
        Self(None)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((claims, owner)) = self.0.take() {
            claims.0.lock().remove(&owner);
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.0.as_ref().map(|(_, owner)| owner)).finish()
    }
}
