"""What several runs were set to, and what came of them: as a table in Markdown, and as a page that needs nothing else.

From the files of their folders alone, without PyTorch.
"""
