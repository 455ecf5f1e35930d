"""Files as this package reads and writes them: paths, digests, results in one step, folders that grow."""
