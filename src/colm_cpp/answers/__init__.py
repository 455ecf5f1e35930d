"""Answering problems: who answers (an arm), what is asked, the answers and their counts, and whether they are right."""
