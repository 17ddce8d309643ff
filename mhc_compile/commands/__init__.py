"""The commands of the command line, a file for each: `run(arguments)` does it and prints.

Must not know: exit codes. Each file is imported when its command is given, so that `--help` answers at once.
"""
