"""One procedure a file, its loop in plain sight. A recipe is `run(config)`; recipes never import each other."""
