"""Replay: any logged drive in, the same detections every time out.

``run.py`` is the pipeline over frames, ``session.py`` one log from file to result, ``batch.py`` many of them,
``compare.py`` what differs between two results.
"""
