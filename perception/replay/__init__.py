"""Replay: any logged drive in, the same detections every time out.

``pipeline.py`` runs over frames, ``job.py`` over one log from file to result, ``fleet.py`` over many of them,
``compare.py`` what differs between two results.
"""
