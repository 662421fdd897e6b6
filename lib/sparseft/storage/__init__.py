"""Read and write files so that no crash, full disk or second process leaves a wrong one.

atomic         files and folders that are whole or absent
ownership      what this program may write, and what it must not replace
locks          one process per output
reading        only regular files, up to a size
hashes         sha256 of files
record         the records of a run, with a digest of themselves
adapter_files  the names of an adapter's files and tensors
processes      child processes
compiled       compiled loops, kept on disk
"""
