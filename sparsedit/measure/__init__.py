"""Measurements of a model at work: how much it computes, and how long it takes."""
