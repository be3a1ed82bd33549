"""Pictures, films and translations from trained networks, for gan-sample."""
