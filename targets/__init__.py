"""Targets: what an analog device and its converters can do, as YAML."""
