"""What the demo plays: real daily bars, published trading rules, and the end of the trades they open.

Nothing here knows the worker, its store or its features. The two sides meet in the events of the streams only.
"""
