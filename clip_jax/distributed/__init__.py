"""Meshes, processes, and what a cluster says of a job."""
