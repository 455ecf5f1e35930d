"""A pair that writes: loading it, texts one by one or many at once, streams, async forms."""
