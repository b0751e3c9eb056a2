"""Benchmarks; every file here is a command."""
