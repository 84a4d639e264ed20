"""Engines that run the jobs of a sweep, and what is handed over and taken up again."""
