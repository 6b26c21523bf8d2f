"""A small mutation tester: which deliberate mistakes in the package do its tests notice?"""
