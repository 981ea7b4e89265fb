"""The text branch: prompts, encoders and the table of text embeddings."""
