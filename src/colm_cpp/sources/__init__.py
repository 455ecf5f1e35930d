"""What a name stands for: files, models on the hub, heads, presets, pair files; and which models these were."""
