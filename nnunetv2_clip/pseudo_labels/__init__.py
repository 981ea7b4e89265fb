"""Pseudo labels: a model's predictions complete what a partly labelled dataset does not annotate."""
