"""A scale pyramid of one's own."""
