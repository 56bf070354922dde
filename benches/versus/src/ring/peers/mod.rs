//! One file for each peer.

pub mod anchorhash;
pub mod bare_hash;
pub mod consistent_hash_ring;
pub mod hash_rings;
pub mod hashring;
pub mod jumphash;
pub mod maglev;
pub mod pingora_ketama;
pub mod ringpact;
