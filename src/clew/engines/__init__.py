"""Engines turn prompts into rollouts."""
