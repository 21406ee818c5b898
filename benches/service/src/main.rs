//! Nothing: what counts is what its manifest asks for.

#![forbid(unsafe_code)]

fn main() {}
