"""Executors of neural components, one file each."""
