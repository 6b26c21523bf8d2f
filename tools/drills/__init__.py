"""The drill of ``tools/drill.py``: what is disturbed (``subjects``), and by what (``faults``)."""
