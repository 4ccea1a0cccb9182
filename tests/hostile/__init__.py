"""Clients and instances that mean harm, and what they get for it."""
