"""Messages of a chat, turned into a prompt by the template of a model's file."""
