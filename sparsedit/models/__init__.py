"""The models the toolkit knows: presets by name, and the code that turns one into a pipeline.

Importing this package imports neither torch nor diffusers; `loading` and `random` do.
"""
