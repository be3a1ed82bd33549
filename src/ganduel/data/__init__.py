"""Data sets: sources find the original files, packing decodes them once, and loading serves batches."""
