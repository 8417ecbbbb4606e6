//! The API of ipsecmesh: custom resources, their defaults, validation rules and conditions.
