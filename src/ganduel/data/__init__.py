"""Data sets: sources find the original files, packing decodes them once, loading serves batches."""
