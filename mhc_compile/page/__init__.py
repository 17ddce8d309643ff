"""The report as one HTML page that needs no network: what would be rewritten, what is left alone, what it costs.

Everything on it is read from frozen data. Must not know: models, graphs, the command line.
"""
