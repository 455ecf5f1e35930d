"""Written texts on record: traces, a line for each token, and the records of answers, a line for each text."""
