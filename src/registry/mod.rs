//! MEMBERSHIP. Who is alive; feeds the ring.
