//! The examples as their users run them, each in a child process.

mod support;

mod cluster;
mod readme;
mod remote;
mod shop;
