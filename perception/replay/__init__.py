"""Replay: any logged drive in, the same detections every time out.

``pipeline.py`` runs over frames, ``job.py`` over one log from file to result, ``fleet.py`` over many; ``compare.py``
finds the differences of two results.
"""
