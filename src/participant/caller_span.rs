//! The caller's `tracing` span. A request that another thread or a task carries out is carried out
//! inside the span that it was sent in, as a call on the caller's own thread would be. Without the
//! feature `tracing` the type is empty.

/// One more handle to the span that was current when this was made.
pub(crate) struct CallerSpan(#[cfg(feature = "tracing")] tracing::Span);

#[cfg(feature = "tracing")]
impl CallerSpan {
    pub(crate) fn current() -> Self {
        Self(tracing::Span::current())
    }

    pub(crate) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        self.0.in_scope(call)
    }

    /// Closes this handle to the span.
    pub(crate) fn close(self) {}
}

#[cfg(not(feature = "tracing"))]
impl CallerSpan {
    #[inline]
    pub(crate) const fn current() -> Self {
        Self()
    }

    #[inline]
    #[expect(clippy::unused_self, reason = "callers are the same with and without the feature")]
    pub(crate) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        call()
    }

    #[inline]
    pub(crate) const fn close(self) {}
}
