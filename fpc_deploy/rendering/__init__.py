"""A rendered world of people and cameras."""
