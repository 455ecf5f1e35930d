"""Texts that the user gives: rows of files, which of them, and their tokens."""
