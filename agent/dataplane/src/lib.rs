//! One trait over the ways to carry ESP: the kernel, and memory for tests.
