"""Does it help, is it stable? Small models trained with every connection at equal tokens: `make study`.

`plan.py` lists the runs, `train.py` trains one and goes on where it was killed, `results.py` makes figures of all of
them, `drawings.py` draws. The short study is the same code with fewer and shorter runs.
"""
