//! Tests of dump.
