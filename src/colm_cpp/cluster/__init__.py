"""Scores and answers by the machines of a Ray cluster, with the same bytes as those of one machine."""
