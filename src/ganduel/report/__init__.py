"""The settings and the results of several runs: a table in Markdown, and a page that needs no other file.

Reads only the files of the run folders, without PyTorch.
"""
