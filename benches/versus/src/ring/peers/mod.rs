//! One file for each peer.

pub mod anchorhash;
pub mod bare_hash;
pub mod bare_hash_and_line;
pub mod consistent_choose_k;
pub mod consistent_hash_ring;
pub mod fliphash;
pub mod hash_rings;
pub mod hashring;
pub mod hashring_coordinator;
pub mod hrw_hash;
pub mod jump_back_hash;
pub mod jumphash;
pub mod maglev;
pub mod maglev_hash;
pub mod mpchash;
pub mod pingora_ketama;
pub mod ringlet_hash;
pub mod ringpact;
