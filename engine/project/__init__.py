"""Project files: finds (`files`), parses (`parse`), checks (`check`) and writes (`write`) them.

The models are `datasource`, `pipe` and, for test files, `suite`. Nothing here needs a database or keeps state. The
command line uses it for files on the disk, and control threads for pushed files.
"""
