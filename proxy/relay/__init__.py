"""Pairs the streams of two connections: routing, credit, resets, replay and the relay's own answers."""
