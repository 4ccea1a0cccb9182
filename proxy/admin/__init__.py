"""Metrics, health and status over HTTP."""
