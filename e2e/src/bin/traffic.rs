//! placeholder of today
fn main() {}
