"""Federated methods, each one file against the contract of `fedquad.methods.method`."""
