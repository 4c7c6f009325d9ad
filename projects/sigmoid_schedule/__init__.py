"""A noise scheduler of one's own."""
