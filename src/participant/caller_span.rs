//! The span that a request was sent in: whoever carries it out on another thread, or as a task, is to be inside of it there,
//! as who is called at once is. Without the feature `tracing` there is nothing to it.

/// A span, of which this is one more handle.
pub(crate) struct CallerSpan(#[cfg(feature = "tracing")] tracing::Span);

#[cfg(feature = "tracing")]
impl CallerSpan {
    pub(crate) fn current() -> Self {
        Self(tracing::Span::current())
    }

    pub(crate) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        self.0.in_scope(call)
    }
}

#[cfg(not(feature = "tracing"))]
impl CallerSpan {
    #[inline]
    pub(crate) const fn current() -> Self {
        Self()
    }

    #[inline]
    #[expect(clippy::unused_self, reason = "so that callers are the same with the feature and without")]
    pub(crate) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        call()
    }
}
