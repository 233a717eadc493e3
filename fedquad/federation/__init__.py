"""The federated system: devices, the round loop, and where devices run."""
