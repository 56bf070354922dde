//! Errors as text, with their causes.

use std::{error::Error, io, iter, sync::Arc};

/// Maximum number of causes that are looked at. An error that names itself as its cause would have no
/// end.
const MAX_CAUSES: usize = 32;

/// Returns an error and its causes, outermost first, at most 32. A cause that its error holds in an
/// [`Arc`], as [`ParticipantError`](crate::ParticipantError) does, or in an [`io::Error`] comes as itself,
/// so that it can be downcast.
///
/// ```
/// use ringpact::{ParticipantError, causes};
///
/// let error = ParticipantError::refused("sold out".parse::<u32>().expect_err("no number"));
/// assert!(causes(&error).any(|cause| cause.is::<std::num::ParseIntError>()));
/// ```
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    fn opened<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
        error.downcast_ref::<Arc<dyn Error + Send + Sync>>().map_or(error, |shared| &**shared)
    }
    fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    iter::successors(Some(opened(error)), |error| cause(*error).map(opened)).take(MAX_CAUSES)
}

/// Returns an error and its causes as one line of text, outermost first: `"a: b: c"`.
///
/// The errors of this crate never print the error that they return as their
/// [`source`](Error::source). A database's error often says no more than "db error" by itself. A
/// cause that its error has printed already is not written twice.
///
/// ```
/// use ringpact::{ParticipantError, error_chain};
///
/// let error = ParticipantError::resource("disk quota exceeded");
/// assert_eq!(error_chain(&error), "the participant's resource failed: disk quota exceeded");
/// ```
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    for _ in 0..MAX_CAUSES {
        let Some(cause) = source else { break };
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Self>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn a_cause_that_is_shared_or_wrapped_comes_as_itself() {
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(Link("deadlock", None));
        let wrapped = io::Error::other(shared);
        let found = causes(&wrapped).find_map(|cause| cause.downcast_ref::<Link>());
        assert_eq!(found.map(|link| link.0), Some("deadlock"));
    }

    #[test]
    fn every_link_is_written_once() {
        let chain =
            |outer| Link(outer, Some(Box::new(Link("duplicate key", Some(Box::new(Link("index orders_pk", None)))))));
        assert_eq!(error_chain(&chain("db error")), "db error: duplicate key: index orders_pk");
        assert_eq!(error_chain(&chain("db error: duplicate key")), "db error: duplicate key: index orders_pk");
    }

    /// Without a limit, opening and printing such an error would never end.
    #[test]
    fn an_error_that_is_its_own_cause_has_an_end() {
        #[derive(Debug)]
        struct Circular;
        impl fmt::Display for Circular {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("round")
            }
        }
        impl Error for Circular {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert_eq!(error_chain(&Circular), "round");
    }
}
