//! IKEv2 (RFC 7296) as a sans-IO engine: no socket, no clock, no randomness, no crypto implementation.
