"""Read and write files so that no crash, full disk or second process leaves a wrong one.

atomic     files and folders that are whole or absent
outputs    where a stage may write: it replaces only what its record names as its own
locks      one process per output, and no child without its parent
reading    text and JSON
hashes     sha256 of files
record     the records of a run, with a digest of themselves, and the files that they record
revisions  those of places on the hub that have none of their own
compiled   compiled loops, kept on disk
"""
