"""The text branch: class names -> prompts -> embeddings -> a table that travels as one file."""
