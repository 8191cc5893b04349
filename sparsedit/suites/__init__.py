"""The sets of cases that edits are measured on: where each finds its pictures. None of them runs a model."""
