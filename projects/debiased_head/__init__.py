"""A contrastive head of one's own."""
