"""Scoring results as the YouTube-VIS benchmark does."""
