//! Who has a log open under which name.

use std::{collections::BTreeSet, fmt, sync::Arc};

use parking_lot::Mutex;

use super::LogError;
use crate::id::Name;

/// The owners' names that are taken on one log, for as long as it is open: what a [`TransactionLog`](super::TransactionLog)
/// keeps to answer [`claim`](super::TransactionLog::claim). Its clones are the same.
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
    /// Takes the name, until what is given is dropped.
    ///
    /// # Errors
    ///
    /// [`LogError::Claimed`] where it is taken already.
    pub fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        if self.0.lock().insert(owner.clone()) {
            Ok(Claim(Some((self.clone(), owner.clone()))))
        } else {
            Err(LogError::Claimed { owner: owner.clone() })
        }
    }
}

/// That a name is taken on a log. Dropped, it gives the name back.
#[must_use = "the name is given back when this is dropped"]
pub struct Claim(Option<(Claims, Name)>);

impl Claim {
    /// One that nobody has checked.
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
