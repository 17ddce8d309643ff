"""What a model with hyper-connections does with its streams: observed in a call, as figures, over training, drawn.

`observe.py` swaps the functions that generated code calls for ones that also look at what goes through, for one call;
`figures.py` makes numbers of that. Nothing here is imported before it is asked for, and nothing is slower until then.
Knows nothing of terminals.
"""
