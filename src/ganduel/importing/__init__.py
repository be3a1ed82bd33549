"""Networks that others have published."""
