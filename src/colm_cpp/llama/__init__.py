"""The one llama.cpp of this process: found, opened, checked; its log, and the threads inside it."""
