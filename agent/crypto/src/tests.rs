//! Provider against provider, and both against published vectors.
