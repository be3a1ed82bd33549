"""What a run keeps in its folder, and what watches over it."""
