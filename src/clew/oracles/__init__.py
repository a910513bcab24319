"""Worlds small enough to enumerate, their closed-form solutions, and `clew verify`, which holds clew to them."""
