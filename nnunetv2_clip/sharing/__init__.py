"""A trained model for others: its files, its model card, a zip, the Hugging Face hub."""
