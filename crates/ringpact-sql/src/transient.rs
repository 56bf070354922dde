//! Which errors of a participant may pass, whatever its database is.

use std::error::Error as StdError;

use ringpact::participant::xa::{XaError, XaErrorKind, XaWorkError};

/// Whether this error, without its causes, is one after which the whole transaction may succeed if it is tried again: a conflict,
/// a lack of room, a database that is away. What was lost with a connection is rolled back by then.
pub(crate) fn may_pass(cause: &(dyn StdError + 'static)) -> bool {
    let of_database = cause.downcast_ref::<XaError>().is_some_and(|error| {
        matches!(error.kind(), XaErrorKind::Transient | XaErrorKind::Unavailable | XaErrorKind::Lost)
    });
    of_database || matches!(cause.downcast_ref(), Some(XaWorkError::TooManyPromises { .. }))
}
