"""Descriptions of measurements, each of which can be made, stored and pooled."""
