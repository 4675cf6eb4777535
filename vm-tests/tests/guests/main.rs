//! Throwaway machines, as many at a time as there are processors: one program, so that they share these.

mod critest;
mod disk;
mod harness;
mod instants;
mod power;
mod suites;
mod support;
mod systemd;
mod units;
