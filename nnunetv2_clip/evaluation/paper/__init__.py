"""What makes the tables and figures of the paper again, from models and predictions of this software."""
