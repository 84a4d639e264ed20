"""Vmapped training: several runs of one shape in one program."""
