"""Models that answer one question, `evaluate(batch) -> Outputs`; transformers lives here and in data/chat.py."""
