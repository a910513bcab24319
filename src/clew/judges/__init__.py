"""Whoever says what an answer is worth: reward models, functions, rules."""
