"""The feedback desk: pages and an API through which people judge, and operators watch. No torch here."""
