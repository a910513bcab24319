"""From the files people have to batches: sources (formats), chat (templates, tokens, masks), collate (rows)."""
