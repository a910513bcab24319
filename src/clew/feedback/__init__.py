"""Feedback from people, models and programs: one record, one store, one path. No torch here."""
