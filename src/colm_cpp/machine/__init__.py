"""What this machine allows: memory and processors."""
