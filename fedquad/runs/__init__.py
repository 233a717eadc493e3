"""Stored runs: settings, deterministic results, telemetry, resume."""
