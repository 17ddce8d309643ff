"""What the longer commands of the command line do, between their arguments and what is printed.

Each takes parsed arguments and a built model. Must not know: consoles, exit codes.
"""
