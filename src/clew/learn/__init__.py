"""The step that improves a model, and its state. Losses arrive as functions."""
