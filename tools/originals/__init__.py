"""The published code of imported models, run where it is installed, for comparison with ours."""
