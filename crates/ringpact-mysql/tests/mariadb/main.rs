//! A real MariaDB server, killed and restarted, under real transactions. Or MySQL, if `RINGPACT_MYSQLD` names its program.
//!
//! | module | what it asserts |
//! |---|---|
//! | `conformance` | the suite that every participant passes |
//! | `traps` | what MariaDB does otherwise than one expects, each with what the participant makes of it |
//! | `lost_sessions` | sessions that are lost in the middle of a promise or a commit |
//! | `crashes` | the server is killed between promise and decision |
//! | `last_resource` | a database that commits without a promise, beside one that promises |
//! | `clients` | what clients of a branch see: errors, time-outs, cancelled statements, read-only work |
//! | `operators` | orphans, settling, heuristics |
//! | `opening` | what a participant checks when it opens |
//! | `tables` | services with their reservations in tables: all of the above for them |
//! | `transfers` | a coordinator over two databases, with an audit |

mod clients;
mod conformance;
mod crashes;
mod last_resource;
mod lost_sessions;
mod opening;
mod operators;
mod stock;
mod support;
mod tables;
mod transfers;
mod traps;
