"""Prediction with a trained universal model."""
