//! Rings that place keys as other software does, point by point. See [the page about
//! them](crate::docs::interop).
//!
//! [`continuum`] is the circle of both; `ketama` and `nginx` say where its points are.

mod continuum;
#[cfg(feature = "ketama")]
mod ketama;
#[cfg(feature = "nginx")]
mod nginx;

pub use continuum::Walk;
#[cfg(feature = "ketama")]
pub use ketama::KetamaRing;
#[cfg(feature = "nginx")]
pub use nginx::NginxRing;
